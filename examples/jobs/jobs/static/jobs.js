// The list of jobs: /jobs is an address of its own, and hears of every job.

import { drawRing, live, showConnection } from "./live.js";

const list = document.getElementById("jobs"), template = document.getElementById("job");
const cards = new Map();

function card(name) {
  const item = template.content.firstElementChild.cloneNode(true);
  item.querySelector("a").href = address(name);
  item.querySelector(".name").textContent = name;
  cards.set(name, item);
  const later = [...cards.keys()].filter((other) => other > name).sort()[0];
  list.insertBefore(item, later === undefined ? null : cards.get(later));
  return item;
}

function show(job) {
  const item = cards.get(job.name) ?? card(job.name);
  item.querySelector(".how").textContent = job.running ? `running, ${job.progress}\u00a0%` : job.state;
  item.querySelector(".watching").textContent = job.watching;
  drawRing(item.querySelector(".ring"), job);
}

function address(name) {
  return `/jobs/${encodeURIComponent(name)}`;
}

document.getElementById("open").addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address(document.getElementById("new").value.trim()));
});

live((jobs, whole) => {
  if (whole) {
    cards.clear(); // Some may have gone with a server.
    list.replaceChildren();
  }
  jobs.forEach(show);
}, showConnection);
