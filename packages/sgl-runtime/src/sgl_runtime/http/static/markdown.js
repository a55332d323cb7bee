// SPDX-License-Identifier: Apache-2.0
// Markdown, as far as models write it, as elements. Never loads anything: a picture is shown as its link. What
// is not understood is shown as it is.

import { copyButton, element } from "./dom.js";

const DEEPEST = 12; // quotes and lists within each other
const LONGEST = 8000; // characters of one block in which marks are looked for
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;
const DELIMITERS = /^\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*$/;
const INLINE = new RegExp(
  [
    /\\([!-/:-@[-`{-~])/, // 1: escaped
    /(`+)(?!`)(.*?[^`])\2(?!`)/, // 2, 3: code
    /\*\*(?=\S)(.*?\S)\*\*(?!\*)/, // 4: strong
    /\*(?=[^\s*])(.*?[^\s*])\*(?!\*)/, // 5: emphasis
    /(?<!\w)__(?=\S)(.*?\S)__(?!\w)/, // 6: strong
    /(?<!\w)_(?=[^\s_])(.*?[^\s_])_(?!\w)/, // 7: emphasis
    /~~(?=\S)(.*?\S)~~/, // 8: deleted
    /!?\[([^\]]*)\]\(\s*<?(https?:\/\/[^\s)>]+)>?[^)]*\)/, // 9, 10: link
    /<?(https?:\/\/[^\s<>"]*[^\s<>".,;:!?'*_)\]])>?/, // 11: address
  ]
    .map((part) => part.source)
    .join("|"),
  "gs",
);

/** Show `text` in `container`, which belongs to this function. Blocks that are as they were are not touched, so
 * a text may grow under the eyes (and the selection) of a reader. */
export function showMarkdown(container, text) {
  const blocks = split(text.split("\n"));
  const before = container.blocks ?? [];
  let same = 0;
  while (same < before.length && same < blocks.length && before[same] === blocks[same].source) same++;
  while (container.childNodes.length > same) container.lastChild.remove();
  container.append(...blocks.slice(same).map((block) => block.build()));
  container.blocks = blocks.map((block) => block.source);
}

/** Blocks of `lines`: the source of each, and how to build its element. */
function split(lines, depth = 0) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const [end, build] = block(lines, at, depth);
    blocks.push({ source: lines.slice(at, end).join("\n"), build });
    at = end;
  }
  return blocks;
}

function block(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fence(lines, at);
  const heading = HEADING.exec(line);
  // The page's own heading is above those of an answer.
  if (heading) return [at + 1, () => element(`h${Math.min(heading[1].length + 1, 6)}`, {}, ...inline(heading[2]))];
  if (RULE.test(line)) return [at + 1, () => element("hr")];
  if (depth < DEEPEST && QUOTE.test(line)) {
    const end = until(lines, at, (next) => !QUOTE.test(next));
    const inner = lines.slice(at, end).map((each) => each.replace(QUOTE, ""));
    return [end, () => element("blockquote", {}, ...built(inner, depth + 1))];
  }
  if (depth < DEEPEST && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && lines[at + 1]?.includes("-") && DELIMITERS.test(lines[at + 1])) return table(lines, at);
  const end = until(lines, at + 1, (next) => !next.trim() || begins(next));
  return [end, () => element("p", {}, ...inline(lines.slice(at, end).join("\n")))];
}

function begins(line) {
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((pattern) => pattern.test(line));
}

function until(lines, at, stops) {
  while (at < lines.length && !stops(lines[at])) at++;
  return at;
}

function built(lines, depth) {
  return split(lines, depth).map((each) => each.build());
}

function fence(lines, at) {
  const [, mark, language] = FENCE.exec(lines[at]);
  const closes = (line) => line.trim().startsWith(mark) && !line.trim().replaceAll(mark[0], "");
  const end = until(lines, at + 1, closes);
  return [Math.min(end + 1, lines.length), () => codeBlock(lines.slice(at + 1, end).join("\n"), language)];
}

export function codeBlock(text, language) {
  const code = element("code", {}, text);
  return element(
    "figure",
    { className: "code" },
    element("figcaption", {}, element("span", {}, language), copyButton(() => code.textContent)),
    // It scrolls, so the keyboard must reach it.
    element("pre", { tabIndex: 0, role: "group", "aria-label": language ? `Code, ${language}` : "Code" }, code),
  );
}

function list(lines, at, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || /\d/.test(item[2]) !== ordered) break;
    const width = item[0].length;
    const stop = until(lines, end + 1, (next) => next.trim() && indent(next) < Math.min(width, indent(lines[end]) + 2));
    const rest = lines.slice(end + 1, stop).map((line) => line.slice(Math.min(width, indent(line))));
    items.push([lines[end].slice(width), ...rest]);
    end = stop;
  }
  const start = ordered ? Number.parseInt(ITEM.exec(lines[at])[2], 10) : undefined;
  return [
    end,
    () => {
      const made = element(ordered ? "ol" : "ul", {}, ...items.map((item) => element("li", {}, ...tight(item, depth))));
      if (ordered) made.start = start;
      return made;
    },
  ];
}

/** The content of an item: its first paragraph without a paragraph's distances. */
function tight(lines, depth) {
  const nodes = built(lines, depth + 1);
  return nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function indent(line) {
  return line.length - line.trimStart().length;
}

function table(lines, at) {
  const end = until(lines, at + 2, (line) => !line.includes("|"));
  const right = cells(lines[at + 1]).map((cell) => cell.endsWith(":") && !cell.startsWith(":"));
  const cell = (text, i, tag) => element(tag, { className: right[i] ? "right" : "" }, ...inline(text));
  const row = (line, tag) => element("tr", {}, ...cells(line).map((text, i) => cell(text, i, tag)));
  return [
    end,
    () =>
      element(
        "div",
        { className: "table", tabIndex: 0, role: "group", "aria-label": "Table" },
        element(
          "table",
          {},
          element("thead", {}, row(lines[at], "th")),
          element("tbody", {}, ...lines.slice(at + 2, end).map((line) => row(line, "td"))),
        ),
      ),
  ];
}

function cells(line) {
  return line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Text with its marks, as nodes. */
function inline(text, depth = 0) {
  if (text.length > LONGEST || depth > DEEPEST) return [text];
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(at, match.index), mark(match, depth + 1));
    at = match.index + match[0].length;
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

function mark(match, depth) {
  const [, escaped, , code, strong, emphasis, strong2, emphasis2, deleted, label, target, address] = match;
  if (escaped !== undefined) return escaped;
  if (code !== undefined) return element("code", {}, code.replaceAll("\n", " ").trim() || code);
  if (strong ?? strong2) return element("strong", {}, ...inline(strong ?? strong2, depth));
  if (emphasis ?? emphasis2) return element("em", {}, ...inline(emphasis ?? emphasis2, depth));
  if (deleted) return element("del", {}, ...inline(deleted, depth));
  if (target) return link(target, label || target);
  return link(address, address);
}

function link(href, text) {
  return element("a", { href, rel: "noopener noreferrer", target: "_blank" }, text);
}
