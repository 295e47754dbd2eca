"""What browsers ask for: pages, WebSockets at the URLs of the pages, and POST for every change."""

from pathlib import Path

from pyramid.httpexceptions import HTTPBadRequest, HTTPConflict, HTTPFound, HTTPNoContent
from pyramid.response import FileResponse
from pyramid.view import view_config

from jobs.resources import Job, Jobs, Root
from stargate import WebSocketView, websocket_view_config


@view_config(context=Root)
def home(root, request):
    return HTTPFound(request.resource_url(root["jobs"]))


@view_config(context=Jobs, request_method="GET")
@view_config(context=Job, request_method="GET")
def page(context, request):
    file = "job.html" if isinstance(context, Job) else "jobs.html"
    return FileResponse(Path(__file__).with_name("pages") / file, request)


@view_config(context=Job, request_method="POST")
def control(job, request):
    try:
        job.control(request.POST.get("state"))
    except ValueError as error:
        return HTTPBadRequest(str(error))
    return HTTPNoContent()


@view_config(context=Job, name="run", request_method="POST")
def run(job, request):
    return HTTPNoContent() if job.run() else HTTPConflict("this job is running already")


@websocket_view_config(context=Jobs, ids=True)
class JobsSocket(WebSocketView):
    def on_open(self, websocket):
        if not self.context.add_listener(websocket):
            websocket.send_json([job.facts() for job in self.context.values()])


@websocket_view_config(context=Job, ids=True)
class JobSocket(WebSocketView):
    def on_open(self, websocket):
        if not self.context.add_listener(websocket):  # True: it has got all that it missed.
            websocket.send_json(self.context.facts() | {"log": self.context.log})
        self.context.report_soon()

    def on_close(self, websocket):
        self.context.report_soon()
