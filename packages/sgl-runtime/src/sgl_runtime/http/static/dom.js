// SPDX-License-Identifier: Apache-2.0
// Elements by hand: text becomes text nodes, never markup.

/** An element of `tag` with `properties` (aria-… and data-… as attributes, on… as listeners) and `children`,
 * elements or strings. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

/** A button that copies what `text()` says; nothing where the browser has no clipboard for us (plain HTTP from
 * another machine). */
export function copyButton(text) {
  if (!navigator.clipboard) return "";
  const button = element("button", { type: "button", className: "quiet", onclick: copy }, "Copy");
  async function copy() {
    await navigator.clipboard.writeText(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
  return button;
}
