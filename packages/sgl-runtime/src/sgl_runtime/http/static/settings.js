// SPDX-License-Identifier: Apache-2.0
// The form of settings: what it says as fields of a request, and what the server says of them beside the field.

import { byId, element } from "./dom.js";
import { ServerError } from "./server.js";
import { local } from "./store.js";

const RULES = {
  json_schema: '{\n  "type": "object",\n  "properties": {\n    "name": {"type": "string"}\n  },\n  "required": ["name"]\n}',
  regex: "(yes|no), because [a-z ,]+\\.",
  ebnf: 'root ::= "yes" | "no"',
};
const DEFAULT_TEMPERATURE = { chat: "0.7", text: "1" }; // of the two endpoints

const form = byId("settings");
const fields = [...form.elements].filter((field) => field.name);
let hasTemplate = true;

/** "chat" or "text". */
export function mode() {
  return hasTemplate ? form.elements.mode.value : "text";
}

export function systemPrompt() {
  return form.elements.system.value.trim();
}

/** The kind of rule that an answer must follow; "": it is free. */
export function rule() {
  return form.elements.rule.value.trim() && form.elements.kind.value;
}

/** The fields that say something, as a request has them. Throws ServerError for what is no number. */
export function parameters() {
  const given = {};
  for (const field of fields.filter((each) => each.type === "number")) {
    if (field.validity.badInput) throw new ServerError(`${field.name}: a number is expected`, { param: field.name });
    if (field.value) given[field.name] = Number(field.value);
  }
  const stop = form.elements.stop.value.split("\n").filter(Boolean);
  if (stop.length) given.stop = stop;
  if (rule()) given[rule()] = form.elements.rule.value;
  return given;
}

/** Mark the field that `error` names, and say so beside it. */
export function blame(error) {
  const name = error.param?.split(/[.[]/)[0];
  const field = name && name === form.elements.kind.value ? form.elements.rule : form.elements[name];
  if (!(field instanceof HTMLElement)) return;
  const id = `${field.id}-error`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  const said = element("p", { className: "error", id }, error.message);
  field.after(said);
  const folded = field.closest("details");
  if (folded) folded.open = true;
  said.scrollIntoView({ block: "nearest" });
}

export function absolve() {
  for (const field of form.querySelectorAll("[aria-invalid]")) forgive(field);
}

function forgive(field) {
  field.removeAttribute("aria-invalid");
  field.removeAttribute("aria-describedby");
  byId(`${field.id}-error`)?.remove();
}

/** Fill the form with what was there the last time; `onMode` is called when another mode is chosen. */
export function startSettings(template, onMode) {
  hasTemplate = template;
  const saved = local.read("settings", {});
  for (const field of fields) {
    if (field.type === "radio") field.checked = field.value === (saved.mode ?? "chat");
    else field.value = saved[field.name] ?? "";
  }
  if (!hasTemplate) form.elements.mode.value = "text";
  for (const radio of form.elements.mode) radio.disabled = !hasTemplate;
  byId("mode-why").hidden = hasTemplate;
  show();
  form.addEventListener("input", (event) => {
    forgive(event.target);
    save();
  });
  form.elements.kind.addEventListener("change", () => {
    form.elements.rule.value = "";
    forgive(form.elements.rule);
    save();
  });
  for (const radio of form.elements.mode) radio.addEventListener("change", onMode);
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("defaults").addEventListener("click", () => {
    for (const field of fields) if (field.type === "number" || field.name === "stop") field.value = "";
    absolve();
    save();
  });
}

/** Choose the mode of a conversation that is opened again. */
export function setMode(value) {
  if (hasTemplate) form.elements.mode.value = value;
  save();
}

function save() {
  const saved = Object.fromEntries(fields.filter((field) => field.type !== "radio").map((field) => [field.name, field.value]));
  local.write("settings", { ...saved, ...(hasTemplate && { mode: form.elements.mode.value }) });
  show();
}

/** Hide what does not apply. */
function show() {
  const kind = form.elements.kind.value;
  byId("system-field").hidden = mode() === "text";
  byId("rule-field").hidden = !kind;
  form.elements.rule.placeholder = RULES[kind] ?? "";
  form.elements.temperature.placeholder = DEFAULT_TEMPERATURE[mode()];
}
