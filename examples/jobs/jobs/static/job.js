// The page of one job: draws what the job says of itself, and posts what its buttons want.

import { drawRing, live, showConnection } from "./live.js";

const LONGEST_LOG = 100;
const address = location.pathname.replace(/\/$/, "");
const element = (id) => document.getElementById(id);
const controls = element("controls"), fieldset = controls.querySelector("fieldset");
const time = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function show(job) {
  document.title = `${job.name} is ${job.state}`;
  document.body.dataset.state = job.state;
  element("name").textContent = job.name;
  element("state").textContent = job.state;
  element("progress").textContent = describe(job);
  element("watching").textContent = `${job.watching} watching now`;
  element("run").disabled = job.running;
  element("run").textContent = job.running ? "Running…" : "Run";
  for (const button of controls.elements.state) {
    button.setAttribute("aria-pressed", button.value === job.state);
  }
  drawRing(element("ring"), job);
  element("ring").setAttribute("aria-valuenow", job.progress);
  if (job.log) {
    element("log").replaceChildren();
  }
  (job.log ?? job.news).forEach(note);
}

function describe({ running, progress }) {
  if (!running && progress === 0) {
    return "has not run yet";
  }
  return running ? `${progress} %` : progress === 100 ? "ran to 100 %" : `stopped at ${progress} %`;
}

function note({ time: seconds, event }) {
  const when = new Date(seconds * 1000), stamp = document.createElement("time");
  stamp.dateTime = when.toISOString();
  stamp.textContent = time.format(when);
  const entry = document.createElement("li");
  entry.append(stamp, event);
  element("log").prepend(entry);
  while (element("log").children.length > LONGEST_LOG) {
    element("log").lastChild.remove();
  }
}

async function post(url, fields) {
  let problem = "";
  try {
    const answer = await fetch(url, { method: "POST", body: new URLSearchParams(fields) });
    problem = answer.ok ? "" : `The server refused: ${answer.status} ${answer.statusText}`;
  } catch {
    problem = "The server cannot be reached.";
  }
  element("problem").textContent = problem;
}

controls.addEventListener("submit", (event) => {
  event.preventDefault();
  const { id, name, value } = event.submitter;
  return id === "run" ? post(`${address}/run`) : post(address, { [name]: value });
});

element("name").textContent = decodeURIComponent(address.split("/").pop());
element("command").textContent = `curl -X POST -d state=on \\\n  ${location.origin}${address}`;
live(show, (status, seconds) => {
  fieldset.disabled = !["connected", "reloaded"].includes(status);
  showConnection(status, seconds);
});
