// One WebSocket to the address of this very page, opened again for as long as the page is there.

const FIRST = 500, LONGEST = 10_000; // Milliseconds between two attempts; they double, and vary.

/**
 * Calls hear(value, whole) with each JSON message: the state as a whole first, and again where what
 * was missed can't be sent any more. Calls tell(status, seconds) when the connection changes.
 */
export function live(hear, tell) {
  const url = new URL(location.pathname, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  let socket, timer, last, asked, begun = false, delay = FIRST; // last: the newest id.

  function open() {
    clearTimeout(timer);
    timer = undefined;
    asked = last !== undefined;
    url.search = asked ? new URLSearchParams({ since: last }) : "";
    socket = new WebSocket(url, "stargate.v1");
    socket.onopen = () => {
      delay = FIRST;
      tell("connected");
    };
    socket.onmessage = (message) => take(JSON.parse(message.data));
    socket.onclose = () => {
      const wait = delay * (0.75 + Math.random() / 2); // Or all browsers come back at once.
      delay = Math.min(delay * 2, LONGEST);
      timer = setTimeout(open, wait);
      tell("reconnecting", Math.ceil(wait / 1000));
    };
  }

  function take({ id, data, recovered }) {
    if (recovered === false) {
      last = undefined; // What comes is the state as a whole, and has no id.
      if (!asked) {
        socket.close(); // The server itself has missed something: begin anew.
      }
      asked = false;
      return;
    }
    last = id ?? last;
    asked &&= recovered === undefined;
    if (data !== undefined) {
      const whole = id === undefined; // To this page alone.
      hear(data, whole);
      if (whole && begun) {
        tell("reloaded");
      }
      begun = true;
    }
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
    reloaded: "Connected, state reloaded",
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
