/** JSON from outside: read without losing a digit, and set so that it is seen for what it is. */

import { CHARACTER_NAMES, clip, h, isObject, show, TRICKY, unseenMark } from "./text.js";

/** A number that a double cannot hold, kept as it was written: what is shown is what the agent sent. */
class ExactNumber {
  constructor(source) {
    this.source = source;
  }
}

function parseExact(text) {
  return JSON.parse(text, (_key, value, context) =>
    typeof value === "number" && context?.source !== undefined && !holds(value, context.source)
      ? new ExactNumber(context.source)
      : value,
  );
}

/** 1.0 and 1e3 may be shown as 1 and 1000; a long integer whose digits would change may not. */
function holds(value, source) {
  return Number.isFinite(value) && (String(value) === source || !/^-?\d{16,}$/.test(source));
}

/** Walk `value` as pretty-printed JSON, handing `out` its keys, strings and everything else as they come. */
export function printJson(value, out, indent = "") {
  if (typeof value === "string") return out.string(value, indent);
  if (value instanceof ExactNumber) return out.literal(value.source);
  if (typeof value !== "object" || value === null) return out.literal(JSON.stringify(value) ?? "null");
  const list = Array.isArray(value);
  const entries = list ? value : Object.entries(value);
  if (entries.length === 0) return out.text(list ? "[]" : "{}");
  const inner = `${indent}  `;
  out.text(list ? "[" : "{");
  entries.forEach((entry, index) => {
    out.text(`${index ? "," : ""}\n${inner}`);
    if (list) return printJson(entry, out, inner);
    out.key(entry[0]);
    out.text(": ");
    printJson(entry[1], out, inner);
  });
  out.text(`\n${indent}${list ? "]" : "}"}`);
}

const quoted = (text) => `"${text.replace(/[\\"]/g, "\\$&")}"`;

/** Pretty JSON as an element. A string of several lines is set as a block with a rule beside it, so that text
 *  inside it can be read and yet never be taken for the structure around it. */
export function jsonView(value) {
  const pre = h("pre", { class: "json" });
  let run = "";
  let afterBlock = false;
  const flush = () => {
    if (run) pre.append(run);
    run = "";
  };
  const span = (name, content) => {
    flush();
    afterBlock = false;
    pre.append(h("span", { class: name }, content));
  };
  printJson(value, {
    text(text) {
      // A block ends its own line, and a comma there could be read as the last character of its text.
      run += afterBlock ? text.replace(/^,?\n/, "") : text;
      afterBlock = false;
    },
    literal: (text) => span("j-literal", text),
    key: (key) => span("j-key", quoted(key)),
    string(text) {
      if (!text.includes("\n")) return span("j-string", quoted(text));
      span("j-lines", linesView(text));
      afterBlock = true;
    },
  });
  flush();
  return pre;
}

/** Text of several lines as it is, each line feed also marked: a line that merely wraps looks different. */
function linesView(text) {
  const fragment = document.createDocumentFragment();
  text.split("\n").forEach((line, index) => {
    if (index) fragment.append(unseenMark({ code: "U+000A", count: 1, name: CHARACTER_NAMES["\n"] }), "\n");
    fragment.append(show(line, { lines: true }));
  });
  return fragment;
}

/** Pretty JSON for a text field: valid, and with every tricky character as an escape that survives the edit. */
export function jsonText(value) {
  let text = "";
  const string = (part) =>
    (text += JSON.stringify(part).replace(TRICKY, (run, emoji) =>
      emoji ? run : Array.from({ length: run.length }, (_, i) =>
        `\\u${run.charCodeAt(i).toString(16).padStart(4, "0")}`).join(""),
    ));
  printJson(value, { text: (part) => (text += part), literal: (part) => (text += part), key: string, string });
  return text;
}

/** The first characters of `value` as JSON, without printing all of a large one. */
export function preview(value, length = 160) {
  if (typeof value === "string") return clip(value, length);
  if (value instanceof ExactNumber) return value.source;
  if (!isObject(value) && !Array.isArray(value)) return clip(JSON.stringify(value) ?? "", length);
  const parts = [];
  let used = 0;
  for (const [key, part] of Object.entries(value)) {
    const text = typeof part === "string" ? clip(part, length) : preview(part, 60);
    parts.push(Array.isArray(value) ? text : `${clip(key, 60)}: ${text}`);
    used += parts.at(-1).length;
    if (used > length) break;
  }
  const joined = parts.join(", ");
  return clip(Array.isArray(value) ? `[${joined}]` : joined, length);
}

export function parsedOr(raw, otherwise) {
  try {
    return parseExact(raw);
  } catch {
    return otherwise;
  }
}
