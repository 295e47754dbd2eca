"""The tree: ``/`` has ``/jobs``, and that has ``/jobs/<name>``. Nothing here knows of requests."""

import time
from threading import Thread, Timer

from stargate import WebSocketAwareContext


class Root(dict):
    __name__, __parent__ = "", None


class Jobs(WebSocketAwareContext, dict):
    """The jobs by name. Whoever asks for one makes it, so their number is bounded."""

    __name__ = "jobs"
    max_jobs, max_name = 100, 40
    history_size, history_ttl = 1000, 600  # For pages that come back: messages, and seconds.

    def __init__(self, parent: Root):
        self.__parent__ = parent

    def __missing__(self, name: str) -> "Job":
        if len(self) >= self.max_jobs or len(name) > self.max_name:
            raise KeyError(name)  # For Pyramid, a 404.
        return self.setdefault(name, Job(name, self))


class Job(WebSocketAwareContext):
    """It is on or off, and can run; whatever happens to it, it tells its listeners."""

    history_size, history_ttl = 1000, 600

    def __init__(self, name: str, parent: Jobs):
        self.__name__, self.__parent__ = name, parent
        self.state, self.running, self.progress = "off", False, 0
        self.log, self.report_due = [], False
        self.pace = 0.05  # Seconds a percent.

    def facts(self) -> dict:
        facts = {"name": self.__name__, "state": self.state, "watching": len(self.listeners)}
        return facts | {"running": self.running, "progress": self.progress}

    def control(self, state: str) -> None:
        """Switch the job ``on`` or ``off``; off ends a run as well."""
        if state not in ("on", "off"):
            raise ValueError(f"a job is on or off, not {state!r}")
        self.state = state
        self.report(f"switched {state}")

    def run(self) -> bool:
        """Start a run in the background; false where one is under way."""
        if self.running:
            return False
        self.state, self.running, self.progress = "on", True, 0
        self.report("run started")
        Thread(target=self._work, daemon=True).start()
        return True

    def _work(self) -> None:
        # No request is around here: only the job, and whoever is watching it by now.
        while self.state == "on" and self.progress < 100:
            time.sleep(self.pace)
            self.progress += 1
            self.report()
        self.running = False
        self.report("run finished" if self.progress == 100 else f"stopped at {self.progress} %")

    def report(self, *events: str) -> None:
        """Tell all pages of this job, and of the list, how it stands and what has happened."""
        self.report_due = False
        news = [{"time": time.time(), "event": event} for event in events]
        self.log = (self.log + news)[-100:]
        self.send_json(self.facts() | {"news": news})
        self.__parent__.send_json([self.facts()])

    def report_soon(self) -> None:
        """Somebody came or went; a thousand who come at once are one report."""
        if not self.report_due:
            self.report_due = True
            timer = Timer(0.1, self.report)
            timer.daemon = True
            timer.start()
