/**
 * Text and elements, and the way that text from outside takes onto the page: only through `show()` and `plain()`,
 * which make control, bidirectional and invisible characters visible. `h()` applies them to every string it is
 * given, so there is no way round them.
 */

export const $ = (id) => document.getElementById(id);

// Group 1: an emoji together with its own joiners and selectors, which is what it looks like and stays.
// Group 2: one character nobody can see, or that moves others (repeats of it follow): controls, format and
// bidirectional characters, private and unassigned ones, lone surrogates, look-alikes of the space (the wide
// one of CJK text apart). The same as sse_gateway/core/visible.py, which the terminal commands use.
// Group 3: combining marks piled so high that they strike out the lines around them.
const EMOJI = "\\p{Extended_Pictographic}(?:\\uFE0F|\\p{Emoji_Modifier})?";
export const TRICKY = new RegExp(
  `(${EMOJI}(?:\\u200D${EMOJI})*)` +
    "|([\\p{C}\\p{Zl}\\p{Zp}\\p{Default_Ignorable_Code_Point}\\u2800]|(?![ \\u3000])\\p{Zs})\\2*" +
    "|(\\p{M}{5,})",
  "gu",
);

export const CHARACTER_NAMES = {
  "\u0000": "null", "\u0007": "bell", "\u0008": "backspace", "\u0009": "tab", "\u000a": "line feed",
  "\u000d": "carriage return", "\u001b": "escape: starts terminal colour and cursor commands", "\u007f": "delete",
  "\u00a0": "no-break space", "\u00ad": "soft hyphen", "\u061c": "Arabic letter mark",
  "\u200b": "zero-width space", "\u200c": "zero-width non-joiner", "\u200d": "zero-width joiner",
  "\u200e": "left-to-right mark", "\u200f": "right-to-left mark", "\u202a": "left-to-right embedding",
  "\u202b": "right-to-left embedding", "\u202c": "pop directional formatting",
  "\u202d": "left-to-right override", "\u202e": "right-to-left override", "\u2060": "word joiner",
  "\u2066": "left-to-right isolate", "\u2067": "right-to-left isolate", "\u2068": "first strong isolate",
  "\u2069": "pop directional isolate", "\ufeff": "byte order mark",
};

/** Split `text` into strings and `{code, count, name}` for what would not be seen. */
function pieces(text, { lines = false } = {}) {
  if (/^[\x20-\x7e]*$/.test(text)) return text ? [text] : [];
  const found = [];
  let end = 0;
  for (const match of text.matchAll(TRICKY)) {
    const [run, emoji, character] = match;
    if (emoji || (lines && (character === "\n" || character === "\t"))) continue;
    if (match.index > end) found.push(text.slice(end, match.index));
    end = match.index + run.length;
    found.push(
      character
        ? { code: codePoint(character), count: run.length / character.length, name: CHARACTER_NAMES[character] }
        : { code: `${[...run].length} combining marks`, count: 1 },
    );
  }
  if (end < text.length) found.push(text.slice(end));
  return found;
}

export function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

function spelled({ code, count }) {
  return count > 1 ? `⟨${code} ×${count}⟩` : `⟨${code}⟩`;
}

/** `text` as nodes, what cannot be seen marked. With `lines`, line feeds and tabs are layout and stay. */
export function show(text, options) {
  const fragment = document.createDocumentFragment();
  for (const piece of pieces(String(text), options)) {
    fragment.append(typeof piece === "string" ? piece : unseenMark(piece));
  }
  return fragment;
}

export function unseenMark(piece) {
  const mark = document.createElement("span");
  // A line feed inside one line is ordinary and gets a quiet sign; the rest is made to be noticed.
  const quiet = { "U+000A": "⏎", "U+0009": "⇥" }[piece.code];
  mark.className = quiet ? "unseen quiet" : "unseen";
  mark.textContent = quiet ? quiet.repeat(Math.min(piece.count, 3)) : spelled(piece);
  mark.title = piece.name ? `${piece.code}, ${piece.name}` : piece.code;
  return mark;
}

/** The same for places that take no nodes: attributes, the page's title, what a screen reader announces. */
export function plain(text) {
  return pieces(String(text)).map((piece) => (typeof piece === "string" ? piece : spelled(piece))).join("");
}

/** Whether `text` holds a character that `show` would mark, line feeds and tabs aside. */
export function isTricky(text) {
  return pieces(text, { lines: true }).some((piece) => typeof piece !== "string");
}

export function clip(text, length) {
  return text.length > length ? `${text.slice(0, length).replace(/[\ud800-\udbff]$/, "")}…` : text;
}

/** An element; strings among `children` and attribute values are outside text, so they go through rule 1. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value === true ? "" : plain(value));
  }
  for (const child of children) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : show(child));
  }
  return element;
}

export function setText(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

export function randomHex(bytes) {
  // Not crypto.randomUUID: that one is missing on plain http from another machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Keep the newest `size` entries of a Map; returns the values of the others. */
export function forgetOldest(map, size) {
  const forgotten = [];
  for (const [key, value] of map) {
    if (map.size <= size) break;
    map.delete(key);
    forgotten.push(value);
  }
  return forgotten;
}

export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
export const firstText = (...values) => values.find((value) => typeof value === "string" && value !== "");

export function copyButton(text) {
  const button = h("button", { type: "button", class: "quiet copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without https the clipboard is closed to pages: select it instead, so that Ctrl+C works.
      getSelection().selectAllChildren(button.parentElement.querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1_500);
  } }, "Copy");
  return button;
}
