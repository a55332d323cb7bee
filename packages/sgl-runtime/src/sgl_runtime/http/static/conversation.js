// SPDX-License-Identifier: Apache-2.0
// A conversation as it is kept, and as it is seen.
//
// A turn is {role: "user" | "assistant", text, reasoning?, rule?, note?}; `rule`: the kind of that which its text
// follows, so that it is no Markdown; `note`: how it came about, a line below it.

import { copyButton, element } from "./dom.js";
import { codeBlock, showMarkdown } from "./markdown.js";
import { local } from "./store.js";

const KEPT = 50;
const TITLE = 60; // characters

export function newConversation(mode) {
  return { id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2)}`, mode, turns: [] };
}

export function titleOf(conversation) {
  return conversation.turns[0].text.trim().replace(/\s+/g, " ").slice(0, TITLE) || "…";
}

export function savedConversations() {
  return local.read("conversations", []);
}

export function saveConversation(conversation) {
  const others = savedConversations().filter((each) => each.id !== conversation.id);
  local.write("conversations", [...(conversation.turns.length ? [conversation] : []), ...others].slice(0, KEPT));
}

export function forgetConversation(id) {
  local.write("conversations", savedConversations().filter((each) => each.id !== id));
}

/** One turn on the screen. `mode`: "chat" or "text"; `actions`: [[label, what it does], …] beside copying. */
export class TurnView {
  #turn;
  #mode;
  #body = element("div", { className: "body" });
  #thought = element("p");
  #reasoning = element("details", { hidden: true }, element("summary", {}, "Reasoning"), this.#thought);
  #note = element("span", { className: "note" });
  #planned = 0;

  constructor(turn, mode, actions) {
    this.#turn = turn;
    this.#mode = mode;
    const who = turn.role === "user" ? "You" : "Model";
    const buttons = actions.map(([label, act]) =>
      element("button", { type: "button", className: "quiet", onclick: act }, label),
    );
    const foot = element("footer", {}, this.#note, copyButton(() => turn.text), ...buttons);
    this.element = element("article", { className: turn.role, "aria-label": who }, this.#reasoning, this.#body, foot);
    this.show();
  }

  /** The turn has changed: show that with the next frame. */
  grow() {
    this.element.setAttribute("aria-busy", "true");
    this.#planned ||= requestAnimationFrame(() => this.#draw());
  }

  /** Show all of it now; it changes no more. */
  show() {
    this.element.removeAttribute("aria-busy");
    this.#draw();
  }

  #draw() {
    cancelAnimationFrame(this.#planned);
    this.#planned = 0;
    const { role, text, reasoning, rule, note } = this.#turn;
    this.#reasoning.hidden = !reasoning;
    this.#thought.textContent = reasoning ?? "";
    this.#note.textContent = note ?? "";
    if (this.#mode === "text" || role === "user") this.#body.textContent = text;
    else if (!rule) showMarkdown(this.#body, text);
    else if (this.#body.firstChild) this.#body.querySelector("code").textContent = text;
    else this.#body.append(codeBlock(text, rule === "json_schema" ? "json" : ""));
  }
}
