// One WebSocket to the address of this very page, opened again for as long as the page is there.

const FIRST = 500, LONGEST = 10_000; // Milliseconds between two attempts; they double, and vary.

/** Calls hear(value) with each JSON message and tell(status, seconds) when the connection changes. */
export function live(hear, tell) {
  const url = new URL(location.pathname, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  let socket, timer, delay = FIRST;

  function open() {
    clearTimeout(timer);
    timer = undefined;
    socket = new WebSocket(url);
    socket.onopen = () => {
      delay = FIRST;
      tell("connected");
    };
    socket.onmessage = (message) => hear(JSON.parse(message.data));
    socket.onclose = () => {
      const wait = delay * (0.75 + Math.random() / 2); // Or all browsers come back at once.
      delay = Math.min(delay * 2, LONGEST);
      timer = setTimeout(open, wait);
      tell("reconnecting", Math.ceil(wait / 1000));
    };
  }

  function hurry() {
    if (timer !== undefined && document.visibilityState === "visible") {
      open();
    }
  }

  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  tell("connecting");
  open();
}

/** Shows the status of the connection in the element #connection. */
export function showConnection(status, seconds) {
  const pill = document.getElementById("connection");
  pill.dataset.status = status;
  pill.textContent = {
    connecting: "Connecting…",
    connected: "Connected",
    reconnecting: `Reconnecting in ${seconds} s…`,
  }[status];
}

/** Draws how far a job is: all of a ring when it is on, a part of it while it runs. */
export function drawRing(ring, { state, running, progress }) {
  ring.dataset.state = state;
  ring.dataset.running = running;
  const part = state === "off" ? 0 : running ? progress : 100;
  ring.querySelector(".arc").style.strokeDashoffset = 100 - part;
}
