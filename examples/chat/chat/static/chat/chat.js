import { ResumingSocket } from "../channels_redis/resume.js";

// One room in the browser: what comes over the WebSocket goes into the log,
// what the form sends goes over the WebSocket or, for "Announce", to a plain view.

const MAX_LOG_ENTRIES = 300;

const { room, process } = document.body.dataset;
const byId = (id) => document.getElementById(id);
const composer = byId("composer");
const log = byId("log");
const text = byId("text");
const author = byId("author");

author.value = sessionStorage.getItem("author") || `Guest ${100 + Math.floor(Math.random() * 900)}`;

const tally = { here: 0, elsewhere: 0 };
const people = new Set();
// Comes back by itself, and gets the lines that it missed.
const address = `/ws/rooms/${room}/?${new URLSearchParams({ name: author.value })}`;
const socket = new ResumingSocket(address, { minWaitMs: 250, maxWaitMs: 4000 });
socket.addEventListener("message", ({ detail }) => receive(detail));
socket.addEventListener("close", () => showStatus("off", "Connection lost, trying again"));
// It was away for too long: the lines that are kept follow.
socket.addEventListener("reload", () => {
  log.replaceChildren();
  Object.assign(tally, { here: 0, elsewhere: 0 });
});

function receive(frame) {
  if (frame.type === "welcome") {
    showStatus("on", "Connected");
  } else if (frame.type === "refused") {
    showRefusal(frame.text);
  } else if (frame.type === "people") {
    people.clear();
    for (const name of frame.names) people.add(name);
    showPeople();
  } else if (frame.type === "joined" || frame.type === "left") {
    if (frame.type === "joined") people.add(frame.name);
    else people.delete(frame.name);
    showPeople();
  } else {
    showEntry(frame);
  }
}

function showStatus(state, words) {
  byId("status").className = `status ${state}`;
  byId("status").textContent = words;
  for (const button of composer.querySelectorAll("button:not(#announce)")) {
    button.disabled = state !== "on";
  }
}

function showPeople() {
  byId("people").replaceChildren(...[...people].map((name) => element("li", "", name)));
}

function showRefusal(words) {
  byId("refusal").textContent = words;
  byId("refusal").hidden = !words;
}

function showEntry(frame) {
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  log.append(frame.type === "note" ? note(frame) : message(frame));
  while (log.children.length > MAX_LOG_ENTRIES) log.firstChild.remove();
  byId("empty").hidden = true;
  if (follows) log.scrollTop = log.scrollHeight;
}

function note(frame) {
  const item = element("li", "note", frame.text);
  item.dataset.process = frame.process;
  return item;
}

function message(frame) {
  const item = element("li", "message");
  item.dataset.process = frame.process;
  const meta = element("div", "meta");
  const time = element("time", "", new Date(frame.at).toLocaleTimeString());
  time.dateTime = frame.at;
  meta.append(
    element("b", "", frame.author),
    element("span", "chip", `from ${frame.process}`),
    element("span", "", frame.way === "worker" ? "general channel" : frame.way),
    time,
  );
  item.append(meta, element("div", "body", frame.text));
  count(frame.process);
  return item;
}

function count(origin) {
  tally[origin === process ? "here" : "elsewhere"] += 1;
  byId("tally").textContent = `${tally.here} from ${process}, ${tally.elsewhere} from other processes`;
}

function element(tag, className, words = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = words;
  return made;
}

function sendOverWebSocket(words) {
  showRefusal("");
  return socket.send({ author: author.value, text: words });
}

async function announce() {
  if (!composer.reportValidity()) return;
  showRefusal("");
  try {
    const answer = await fetch(composer.action, { method: "POST", body: new FormData(composer) });
    if (answer.ok) clearText();
    else showRefusal(answer.status < 500 ? (await answer.json()).text : "The announcement failed.");
  } catch {
    showRefusal("The server can't be reached.");
  }
}

function clearText() {
  text.value = "";
  text.focus();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (sendOverWebSocket(text.value)) clearText();
});
byId("announce").addEventListener("click", announce);
byId("roll").addEventListener("click", () => {
  if (author.reportValidity()) sendOverWebSocket("/roll 2d6");
});

author.addEventListener("change", () => {
  sessionStorage.setItem("author", author.value);
  // For the next connection; until then, the next message tells the new name.
  socket.url.searchParams.set("name", author.value);
});
showStatus("", "Connecting");
