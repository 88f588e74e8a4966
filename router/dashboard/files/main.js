// What every page of the dashboard does: it stays live, asks back, filters as one types.

import { Asking } from "./asking.js";
import { apply, Stream } from "./live.js";
import { setNow, showTimes } from "./times.js";

const at = (id) => document.getElementById(id);
const WORDS = { starting: "Connecting", live: "Live", lost: "No connection; trying again" };

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

function lineIs(state) {
  if (at("live").dataset.state === state) return;
  at("live").dataset.state = state;
  at("live").textContent = WORDS[state];
}

const hear = {
  message(message) {
    setNow(message.now);
    lineIs("live");
    trouble("");
    apply(message);
    showTimes();
  },
  trouble: (message) => trouble(message.text),
  gone(message) {
    stream.end();
    lineIs("lost");
    trouble(message.text);
  },
  over() {
    stream.end();
    location.assign("/dashboard/login");
  },
};

const stream = new Stream(location.href, (kind, message) => hear[kind](message), lineIs);

const asking = new Asking((text) => {
  at("told").textContent = text;
  clearTimeout(asking.hiding);
  asking.hiding = setTimeout(() => (at("told").textContent = ""), 8000);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-post]");
  if (button !== null) asking.begin(button);
});

// A filter acts while one types; the address follows, so that it can be kept and passed on.
for (const form of document.querySelectorAll("[data-filter]")) {
  let typing = 0;
  const filter = () => {
    const filled = [...new FormData(form)].filter(([, value]) => value);
    const query = new URLSearchParams(filled).toString();
    const address = form.getAttribute("action") + (query ? `?${query}` : "");
    history.replaceState(null, "", address);
    stream.turnTo(address);
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    filter();
  });
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(filter, 250);
  });
}

showTimes();
setInterval(showTimes, 1000);
const box = at("console");
if (box !== null) box.scrollTop = box.scrollHeight;
