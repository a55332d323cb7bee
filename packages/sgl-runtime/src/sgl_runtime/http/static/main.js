// SPDX-License-Identifier: Apache-2.0
// The page: asks for answers and shows them as they come. How a turn looks, what the settings say and how the
// server speaks is known elsewhere.

import {
  forgetConversation, newConversation, saveConversation, savedConversations, titleOf, TurnView,
} from "./conversation.js";
import { byId, element } from "./dom.js";
import { rounded, startFigures } from "./figures.js";
import { getJson, setKey, streamEvents } from "./server.js";
import { absolve, blame, mode, parameters, rule, setMode, startSettings, systemPrompt } from "./settings.js";
import { session } from "./store.js";

const WIDE = matchMedia("(min-width: 60rem)");
const NEAR = 80; // pixels from the end within which the view follows an answer
const NOTES = { length: "cut at its longest", abort: "given up by the engine" };

const log = byId("log");
const message = byId("message");
let conversation = newConversation("chat");
const views = new WeakMap(); // of the turns
let running = null; // the AbortController of the answer that comes
let lookSoon = () => {};
let started = false;
let leaving = false;

// -- a conversation

function show() {
  log.classList.toggle("text", conversation.mode === "text");
  log.replaceChildren(byId("empty"), ...conversation.turns.map((turn) => viewOf(turn).element));
  byId("empty").hidden = conversation.turns.length > 0;
  message.placeholder = conversation.mode === "text" ? "Text to go on with" : "Message";
  showHistory();
}

function viewOf(turn) {
  const actions = turn.role === "user" ? [["Edit", () => edit(turn)]] : [["Again", () => again(turn)]];
  if (turn.role === "assistant" && !turn.rule && turn === conversation.turns.at(-1)) {
    actions.push(["Go on", () => running || answer({ turn })]);
  }
  const view = new TurnView(turn, conversation.mode, actions);
  views.set(turn, view);
  return view;
}

function open(opened) {
  running?.abort();
  conversation = opened;
  session.write("conversation", opened.id);
  setMode(opened.mode);
  complain(null);
  // The page was left before the answer came.
  if (opened.mode === "chat" && opened.turns.at(-1)?.role === "user") write(opened.turns.pop().text);
  show();
  toEnd();
  message.focus();
}

/** Take a message back into the field, with all that came after it. */
function edit(turn) {
  if (running) return;
  conversation.turns.length = conversation.turns.indexOf(turn);
  write(turn.text);
  saveConversation(conversation);
  show();
  message.focus();
}

/** Another answer in the place of this one and what came after it. */
function again(turn) {
  if (running) return;
  const replaced = conversation.turns.splice(conversation.turns.indexOf(turn));
  show();
  answer({ replaced });
}

function showHistory() {
  const items = savedConversations().map((saved) => {
    const current = saved.id === conversation.id;
    const name = element("button", { type: "button", className: "quiet title", onclick: () => open(saved) }, titleOf(saved));
    if (current) name.setAttribute("aria-current", "true");
    const label = `Delete “${titleOf(saved)}”`;
    return element("li", {}, name, element("button", { type: "button", className: "quiet", "aria-label": label, onclick: () => forget(saved.id) }, "×"));
  });
  byId("history").replaceChildren(...items);
}

function forget(id) {
  forgetConversation(id);
  if (id === conversation.id) open(newConversation(mode()));
  else showHistory();
}

// -- an answer

function send(event) {
  event.preventDefault();
  if (running) return;
  const text = conversation.mode === "text" ? message.value : message.value.trim();
  if (!text) return;
  conversation.turns.push({ role: "user", text });
  write("");
  saveConversation(conversation);
  show();
  toEnd();
  answer();
}

/** What is asked for: the path of the endpoint, and the body. `goesOn`: the last turn is the answer's beginning. */
function request(goesOn) {
  const common = { stream: true, stream_options: { include_usage: true }, ...parameters() };
  if (conversation.mode === "text") {
    const prompt = conversation.turns.map((turn) => turn.text).join("");
    return ["v1/completions", { prompt, max_tokens: null, ...common }];
  }
  const said = conversation.turns.map(({ role, text }) => ({ role, content: text }));
  const system = systemPrompt();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...said];
  return ["v1/chat/completions", { messages, ...(goesOn && { continue_final_message: true }), ...common }];
}

/** Ask for the next turn, or for more of `turn`; `replaced`: the turns that come back if there is none. */
async function answer({ turn, replaced = [] } = {}) {
  complain(null);
  const asked = conversation;
  const goesOn = Boolean(turn);
  turn ??= { role: "assistant", text: "", rule: rule() };
  const controller = begin();
  const times = { asked: performance.now() };
  let view = null;
  let failure = null;
  try {
    const [path, body] = request(goesOn);
    for await (const event of streamEvents(path, body, controller.signal)) {
      view ??= beginView(asked, turn, goesOn);
      take(event, turn, times);
      view.grow();
      follow();
    }
  } catch (error) {
    failure = error;
  }
  end(controller);
  if (leaving) return;
  if (times.first || !failure) turn.note = noteOf(times, failure?.name === "AbortError");
  else if (!goesOn) undo(asked, turn, replaced);
  saveConversation(asked);
  showHistory();
  if (asked !== conversation) return;
  view?.show();
  follow();
  if (failure && failure.name !== "AbortError") complain(failure);
  byId("said").textContent = failure ? "" : "The answer is complete.";
}

function beginView(asked, turn, goesOn) {
  lookSoon();
  if (goesOn) return views.get(turn);
  asked.turns.push(turn);
  const view = viewOf(turn);
  if (asked === conversation) log.append(view.element);
  return view;
}

/** Nothing came: all is as before, and the message is in its field again. */
function undo(asked, turn, replaced) {
  asked.turns = asked.turns.filter((each) => each !== turn);
  asked.turns.push(...replaced);
  if (asked !== conversation) return;
  if (asked.turns.at(-1)?.role === "user" && !message.value) write(asked.turns.pop().text);
  show();
}

/** What an event adds to the turn, and to what is known of its making. */
function take(event, turn, times) {
  if (event.usage) times.usage = event.usage;
  for (const choice of event.choices) {
    const text = choice.text ?? choice.delta.content ?? "";
    const reasoning = choice.delta?.reasoning_content ?? "";
    turn.text += text;
    if (reasoning) turn.reasoning = (turn.reasoning ?? "") + reasoning;
    if (text || reasoning) {
      times.first ??= performance.now();
      times.last = performance.now();
    }
    times.reason = choice.finish_reason ?? times.reason;
  }
}

function noteOf({ asked, first, last, usage, reason }, stopped) {
  const parts = [];
  if (first) parts.push(`first token after ${rounded((first - asked) / 1000)} s`);
  if (usage) {
    const cached = usage.prompt_tokens_details.cached_tokens;
    parts.unshift(`${usage.completion_tokens} tokens`);
    if (last > first) parts.push(`${rounded(((usage.completion_tokens - 1) * 1000) / (last - first))} tokens/s`);
    parts.push(`${usage.prompt_tokens} in the prompt${cached ? `, ${cached} of them cached` : ""}`);
  }
  if (stopped) parts.push("stopped");
  else if (NOTES[reason]) parts.push(NOTES[reason]);
  return parts.join(" · ");
}

function begin() {
  running = new AbortController();
  byId("send").hidden = true;
  byId("stop").hidden = false;
  // The button that was pressed is out of reach for now.
  if (document.activeElement === document.body || log.contains(document.activeElement)) byId("stop").focus();
  byId("said").textContent = "The model is answering.";
  log.classList.add("busy");
  return running;
}

function end(controller) {
  if (running !== controller) return;
  running = null;
  const focused = document.activeElement === byId("stop");
  byId("send").hidden = false;
  byId("stop").hidden = true;
  log.classList.remove("busy");
  if (focused) message.focus();
}

/** Say what the server refuses, above the message and at the field that it names. */
function complain(error) {
  absolve();
  const problem = byId("problem");
  problem.hidden = !error;
  problem.textContent = error?.message ?? "";
  if (!error) return;
  if (error.status === 401) askForKey();
  blame(error);
}

function follow() {
  const left = document.documentElement.scrollHeight - window.scrollY - window.innerHeight;
  if (left < NEAR) requestAnimationFrame(toEnd);
}

function toEnd() {
  window.scrollTo(0, document.documentElement.scrollHeight);
}

// -- the page

function write(text) {
  message.value = text;
  fit();
}

function fit() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight}px`;
}

/** Show or hide the panel, which on a narrow screen lies over the conversation. */
function toggle(opened) {
  byId("panel").hidden = !opened;
  document.querySelector("main").inert = opened && !WIDE.matches;
  byId("toggle").setAttribute("aria-expanded", String(opened));
}

function askForKey() {
  byId("key").hidden = false;
  byId("key-field").focus();
}

async function start() {
  let info;
  try {
    info = await getJson("get_model_info");
  } catch (error) {
    complain(error);
    return;
  }
  complain(null);
  byId("key").hidden = true;
  if (started) return;
  started = true;
  byId("model").textContent = info.served_model_name;
  document.title = `${info.served_model_name} · sgl`;
  byId("empty").textContent = info.is_generation
    ? `${info.architecture}, ${info.context_length.toLocaleString()} tokens of context.`
    : "This model does not write text: it is asked through the API.";
  for (const field of [message, byId("send")]) field.disabled = !info.is_generation;
  startSettings(info.has_chat_template, () => open(newConversation(mode())));
  const saved = savedConversations().find(({ id }) => id === session.read("conversation", ""));
  open(saved && (info.has_chat_template || saved.mode === "text") ? saved : newConversation(mode()));
  lookSoon = startFigures((error) => byId("load").classList.toggle("lost", Boolean(error)));
}

byId("composer").addEventListener("submit", send);
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => open(newConversation(mode())));
byId("toggle").addEventListener("click", () => toggle(byId("panel").hidden));
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key-field").value);
  start();
});
message.addEventListener("input", fit);
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running ? running.abort() : WIDE.matches || toggle(false);
});
addEventListener("pagehide", () => {
  leaving = true;
  saveConversation(conversation);
});
addEventListener("pageshow", () => (leaving = false));
WIDE.addEventListener("change", () => toggle(WIDE.matches));
toggle(WIDE.matches);
start();
