"use strict";

// A text that comes word by word. The browser comes back by itself after a lost connection, and
// names the last word that it has; a page that is loaded again gets all words from the first.

const { events } = document.body.dataset;
const story = document.getElementById("story");
const status = document.getElementById("status");

function showStatus(state, words) {
  status.className = `status ${state}`;
  status.textContent = words;
}

if (events) {
  const source = new EventSource(events);
  source.onopen = () => showStatus("on", "Connected");
  source.onerror = () => showStatus("off", "Connection lost, trying again");
  source.addEventListener("word", ({ data }) => story.append(`${data} `));
  source.addEventListener("reset", () => story.replaceChildren());
  source.addEventListener("end", () => {
    source.close();
    showStatus("", "The end");
  });
}
