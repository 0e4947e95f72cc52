/**
 * The developer console: watch one session, answer what its agent asks.
 *
 * Three rules hold everywhere in this file.
 * 1. Text from outside reaches the page only through `show()` and `plain()`, which make control, bidirectional
 *    and invisible characters visible: the person who approves must see what the agent will run. `h()` applies
 *    them to every string it is given, so there is no way round them.
 * 2. The gateway decides, the page displays. Countdown, buttons and colours are advice; what counts is the
 *    gateway's reply and the `permission_cleared` event.
 * 3. Permission requests are handled at once, everything else at the next animation frame: a burst of events
 *    must not delay a question, and a hidden tab (which gets no frames) must still count it in its title.
 *
 * No framework, no build step, nothing from another origin: this file is served as it stands under a CSP of
 * `default-src 'none'`.
 */

const BASE = location.pathname.replace(/\/console\/?$/, "");
const TITLE = document.title;
// Made anew for each page load and not stored: a duplicated tab copies sessionStorage, and two pages with one
// client_id would throw each other off the stream for ever.
const CLIENT_ID = `console-${randomHex(8)}`;

const EVENTS_KEPT = 500;
const REDRAW_EVERY_MS = 80;
const CALLS_KEPT = 60;
const STEPS_KEPT = 12;
const DECISIONS_KEPT = 20;
const SETTLED_KEPT = 2_000;
const NOTICES_KEPT = 60;
const FILTERS_KEPT = 10;

const REPLY_TIMEOUT_MS = 15_000;
const LONGEST_BACKOFF_MS = 6_000;
/** How long a new card's buttons stay dead: the click under way was meant for something else. */
const NEW_CARD_GUARD_MS = 1_000;
const MOVED_CARD_GUARD_MS = 800;
/** A high-risk approval wants two clicks, neither too close together (a double click) nor too far apart. */
const CONFIRM_NOT_BEFORE_MS = 600;
const CONFIRM_NOT_AFTER_MS = 6_000;
const SETTLED_CARD_STAYS_MS = 3_000;

const $ = (id) => document.getElementById(id);

// ── Text ────────────────────────────────────────────────────────────────────────────────────────────────────

// Group 1: an emoji together with its own joiners and selectors, which is what it looks like and stays.
// Group 2: one character nobody can see, or that moves others (repeats of it follow): controls, format and
// bidirectional characters, private and unassigned ones, lone surrogates, look-alikes of the space (the wide
// one of CJK text apart). The same as sse_gateway/core/visible.py, which the terminal commands use.
// Group 3: combining marks piled so high that they strike out the lines around them.
const EMOJI = "\\p{Extended_Pictographic}(?:\\uFE0F|\\p{Emoji_Modifier})?";
const TRICKY = new RegExp(
  `(${EMOJI}(?:\\u200D${EMOJI})*)` +
    "|([\\p{C}\\p{Zl}\\p{Zp}\\p{Default_Ignorable_Code_Point}\\u2800]|(?![ \\u3000])\\p{Zs})\\2*" +
    "|(\\p{M}{5,})",
  "gu",
);

const CHARACTER_NAMES = {
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

function codePoint(character) {
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

function spelled({ code, count }) {
  return count > 1 ? `⟨${code} ×${count}⟩` : `⟨${code}⟩`;
}

/** `text` as nodes, what cannot be seen marked. With `lines`, line feeds and tabs are layout and stay. */
function show(text, options) {
  const fragment = document.createDocumentFragment();
  for (const piece of pieces(String(text), options)) {
    fragment.append(typeof piece === "string" ? piece : unseenMark(piece));
  }
  return fragment;
}

function unseenMark(piece) {
  const mark = document.createElement("span");
  // A line feed inside one line is ordinary and gets a quiet sign; the rest is made to be noticed.
  const quiet = { "U+000A": "⏎", "U+0009": "⇥" }[piece.code];
  mark.className = quiet ? "unseen quiet" : "unseen";
  mark.textContent = quiet ? quiet.repeat(Math.min(piece.count, 3)) : spelled(piece);
  mark.title = piece.name ? `${piece.code}, ${piece.name}` : piece.code;
  return mark;
}

/** The same for places that take no nodes: attributes, the page's title, what a screen reader announces. */
function plain(text) {
  return pieces(String(text)).map((piece) => (typeof piece === "string" ? piece : spelled(piece))).join("");
}

/** Whether `text` holds a character that `show` would mark, line feeds and tabs aside. */
function isTricky(text) {
  return pieces(text, { lines: true }).some((piece) => typeof piece !== "string");
}

function clip(text, length) {
  return text.length > length ? `${text.slice(0, length).replace(/[\ud800-\udbff]$/, "")}…` : text;
}

/** An element; strings among `children` and attribute values are outside text, so they go through rule 1. */
function h(tag, attributes = {}, ...children) {
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

function setText(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

function randomHex(bytes) {
  // Not crypto.randomUUID: that one is missing on plain http from another machine.
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Keep the newest `size` entries of a Map; returns the values of the others. */
function forgetOldest(map, size) {
  const forgotten = [];
  for (const [key, value] of map) {
    if (map.size <= size) break;
    map.delete(key);
    forgotten.push(value);
  }
  return forgotten;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const firstText = (...values) => values.find((value) => typeof value === "string" && value !== "");

// ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────

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
function printJson(value, out, indent = "") {
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
function jsonView(value) {
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
function jsonText(value) {
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
function preview(value, length = 160) {
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

// ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────

/** The gateway's clock as far as this page knows it: deadlines are the gateway's, this machine's may be wrong. */
const clock = {
  offset: 0,
  now: () => Date.now() + clock.offset,
  learn(serverTime) {
    const time = Date.parse(serverTime);
    if (Number.isFinite(time)) clock.offset = time - Date.now();
  },
};

const pad = (number, width = 2) => String(number).padStart(width, "0");

function timeOfDay(timestamp) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return "--:--:--";
  return `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}.${pad(time.getMilliseconds(), 3)}`;
}

function duration(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60_000)} min ${pad(Math.floor((ms % 60_000) / 1_000))} s`;
}

function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1_000));
  if (seconds >= 3_600) return `${Math.floor(seconds / 3_600)} h ${pad(Math.floor((seconds % 3_600) / 60))} min`;
  return `${Math.floor(seconds / 60)}:${pad(seconds % 60)}`;
}

// ── The frame loop: everything that may wait until the page is painted again ─────────────────────────────────

const frame = {
  scheduled: false,
  last: -Infinity,
  /** Ask for one. In a burst only every few frames are used: nobody reads faster, and layout has its price. */
  request() {
    if (frame.scheduled) return;
    frame.scheduled = true;
    const wait = frame.last + REDRAW_EVERY_MS - performance.now();
    if (wait > 0) setTimeout(requestAnimationFrame, wait, frame.draw);
    else requestAnimationFrame(frame.draw);
  },

  draw(now) {
    frame.scheduled = false;
    frame.last = now;
    timeline.flush();
    tools.flush();
    strip.flush();
  },
};

// ── Timeline ────────────────────────────────────────────────────────────────────────────────────────────────

const timeline = {
  /** Envelopes not yet on the page; never more than fit on it. */
  incoming: [],
  /** Row element → the raw text of its event, pretty-printed only when somebody opens it. */
  raw: new WeakMap(),
  received: 0,
  /** Whether new rows are added and scrolled to: as long as the end of the list is in view. */
  following: true,
  /** Type → {count, button, hidden}. */
  types: new Map(),

  add(envelope, raw, mark) {
    timeline.received += 1;
    timeline.incoming.push({ envelope, raw, mark });
    if (timeline.incoming.length > EVENTS_KEPT) timeline.incoming.shift();
    frame.request();
  },

  flush() {
    // Who has scrolled away is reading: rows must not be dropped from under their eyes.
    if (!timeline.following) return timeline.refresh();
    const rows = timeline.incoming;
    if (rows.length === 0) return;
    timeline.incoming = [];
    const list = $("events");
    const fragment = document.createDocumentFragment();
    for (const row of rows) fragment.append(timeline.row(row));
    list.append(fragment);
    for (let extra = list.childElementCount - EVENTS_KEPT; extra > 0; extra -= 1) list.firstElementChild.remove();
    $("scroller").scrollTop = $("scroller").scrollHeight;
    timeline.refresh();
  },

  row({ envelope, raw, mark }) {
    const type = typeof envelope.type === "string" ? envelope.type : "?";
    const row = h(
      "li",
      { class: "event", "data-testid": "event", "data-type": type, "data-id": envelope.id },
      h(
        "details",
        {},
        h(
          "summary",
          {},
          h("span", { class: `badge ${kindOf(type)}` }, clip(type, 40)),
          h("time", { datetime: envelope.timestamp, title: envelope.timestamp }, timeOfDay(envelope.timestamp)),
          h("span", { class: "text" }, clip(summary(envelope), 300)),
          h("span", { class: "where" },
            mark && h("span", { class: "mark", title: MARKS[mark] }, mark),
            envelope.id && h("code", { class: "id", title: "Position: epoch-seq" }, clip(String(envelope.id), 80))),
        ),
      ),
    );
    timeline.raw.set(row.firstElementChild, raw);
    row.hidden = timeline.count(type).hidden;
    return row;
  },

  count(type) {
    // An agent may invent any number of types; the row of switches has an end.
    const name = timeline.types.has(type) || timeline.types.size < FILTERS_KEPT ? type : "other";
    let known = timeline.types.get(name);
    if (!known) {
      const number = h("b");
      const button = h(
        "button",
        { type: "button", class: `filter ${kindOf(name)}`, "aria-pressed": "true", "data-filter": name,
          onclick: () => timeline.toggle(name) },
        h("span", {}, clip(name, 32)), number,
      );
      known = { count: 0, hidden: false, button, number };
      timeline.types.set(name, known);
      $("filters").append(button);
    }
    known.count += 1;
    return known;
  },

  toggle(name) {
    const known = timeline.types.get(name);
    known.hidden = !known.hidden;
    known.button.setAttribute("aria-pressed", String(!known.hidden));
    for (const row of $("events").children) {
      const type = row.dataset.type;
      if (type === name || (name === "other" && !timeline.types.has(type))) row.hidden = known.hidden;
    }
    if (timeline.following) timeline.toEnd();
  },

  open(details) {
    if (!details.open) return;
    if (details.childElementCount === 1) {
      const raw = timeline.raw.get(details) ?? "";
      details.append(h("div", { class: "raw" }, copyButton(raw), jsonView(parsedOr(raw, raw))));
    }
    timeline.look();
  },

  /** Go on following if the end of the list is in view, else hold new rows back. */
  look() {
    const { scrollTop, clientHeight, scrollHeight } = $("scroller");
    const atEnd = scrollTop + clientHeight >= scrollHeight - 24;
    if (atEnd === timeline.following) return;
    timeline.following = atEnd;
    timeline.flush();
  },

  refresh() {
    for (const { count, number } of timeline.types.values()) setText(number, count);
    $("no-events").hidden = $("events").childElementCount > 0;
    $("events-count").hidden = timeline.received === 0;
    setText($("events-count"), timeline.received);
    $("events-count").title = timeline.received > EVENTS_KEPT ? `the last ${EVENTS_KEPT} are shown` : "";
    $("latest").hidden = timeline.following || timeline.incoming.length === 0;
    setText($("latest"), `↓ ${timeline.incoming.length}${timeline.incoming.length === EVENTS_KEPT ? "+" : ""} new`);
  },

  toEnd() {
    timeline.following = true;
    timeline.flush();
    $("scroller").scrollTop = $("scroller").scrollHeight;
    timeline.refresh();
  },

  clear() {
    timeline.incoming = [];
    timeline.received = 0;
    timeline.types.clear();
    $("filters").replaceChildren();
    $("events").replaceChildren();
    timeline.toEnd();
  },
};

const MARKS = {
  snapshot: "State from before this page connected; it has no position of its own",
  "live only": "Published without history: a page that is not connected never sees it",
  settled: "Replayed from history; this request is no longer open",
};

const KINDS = new Set(["tool_status", "tool_result", "permission_request", "permission_cleared"]);
const kindOf = (type) => (KINDS.has(type) ? `is-${type.replace("_", "-")}` : "is-other");

function summary({ type, data }) {
  if (!isObject(data)) return preview(data ?? "");
  const tool = toolName(data);
  const join = (...parts) => parts.filter(Boolean).map((part) => clip(String(part), 200)).join(" · ");
  switch (type) {
    case "tool_status":
      return join(tool, data.status, firstText(data.message, data.detail, data.description) ?? preview(argumentsOf(data) ?? "")) ||
        preview(data);
    case "tool_result":
      return join(tool, isFailure(data) ? "failed" : "done", preview(resultOf(data) ?? "")) || preview(data);
    case "permission_request":
      return join(tool, `${data.risk_level ?? "unknown"} risk`, data.title ?? preview(data.parameters ?? ""));
    case "permission_cleared":
      return join(data.outcome, data.decided_by && `by ${data.decided_by}`, data.reason) || preview(data);
    default:
      return preview(data);
  }
}

const argumentsOf = (data) => [data.parameters, data.arguments, data.input].find((value) => value !== undefined && value !== null);
const toolName = (data) => firstText(data.tool_name, data.tool, data.name);
const resultOf = (data) => [data.result, data.output, data.error].find((value) => value !== undefined && value !== null);
const isFailure = (data) => data.success === false || data.is_error === true || (data.success !== true && Boolean(data.error));

function parsedOr(raw, otherwise) {
  try {
    return parseExact(raw);
  } catch {
    return otherwise;
  }
}

function copyButton(text) {
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

// ── Tool calls ──────────────────────────────────────────────────────────────────────────────────────────────

const tools = {
  /** tool_call_id (else the tool's name) → call. Insertion order is age. */
  calls: new Map(),
  dirty: new Set(),

  take({ type, data, timestamp }) {
    if (!isObject(data)) return;
    const at = Date.parse(timestamp);
    if (type === "tool_status") {
      const call = tools.call(data);
      call.detail = firstText(data.message, data.detail, data.description);
      call.parameters = argumentsOf(data) ?? call.parameters;
      tools.step(call, firstText(data.status) ?? "?", at);
    } else if (type === "tool_result") {
      const call = tools.call(data);
      call.result = { value: resultOf(data), failed: isFailure(data) };
      tools.step(call, call.result.failed ? "failed" : "result", at);
    }
  },

  /** What became of the permission belongs in the story of the call it was asked for. */
  permission(request, status, at) {
    if (firstText(request.tool_call_id)) tools.step(tools.call(request), status, at);
  },

  call(data) {
    const name = toolName(data);
    const key = firstText(data.tool_call_id) ?? `name:${name ?? ""}`;
    let call = tools.calls.get(key);
    if (!call) {
      call = { id: firstText(data.tool_call_id), name: undefined, steps: [], stepsForgotten: 0, element: null };
      tools.calls.set(key, call);
      for (const old of forgetOldest(tools.calls, CALLS_KEPT)) {
        tools.dirty.delete(old);
        old.element?.remove();
      }
    }
    call.name = name ?? call.name;
    return call;
  },

  step(call, status, at) {
    const last = call.steps.at(-1);
    if (last && last.status === status) {
      last.times += last.at === at ? 0 : 1;
      last.until = at;
    } else {
      call.steps.push({ status, at, until: at, times: 1 });
      if (call.steps.length > STEPS_KEPT) {
        call.steps.shift();
        call.stepsForgotten += 1;
      }
    }
    tools.dirty.add(call);
    frame.request();
  },

  flush() {
    if (tools.dirty.size === 0) return;
    for (const call of tools.dirty) tools.draw(call);
    tools.dirty.clear();
    $("no-tools").hidden = tools.calls.size > 0;
    $("tools-count").hidden = tools.calls.size === 0;
    setText($("tools-count"), tools.calls.size);
  },

  draw(call) {
    const last = call.steps.at(-1);
    const wasOpen = call.element?.querySelector("details")?.open ?? false;
    const body = h("div", { class: "call-body" });
    if (call.parameters !== undefined) body.append(h("h4", {}, "Parameters"), jsonView(call.parameters));
    if (call.result?.value !== undefined) body.append(h("h4", {}, "Result"), jsonView(call.result.value));
    const details = h(
      "details",
      { open: wasOpen },
      h(
        "summary",
        {},
        h("span", { class: "call-name" }, clip(call.name ?? "unnamed tool", 80)),
        h("span", { class: `status ${moodOf(last.status)}`, "data-testid": "tool-status" }, clip(last.status, 40)),
        call.id && h("code", { class: "id", title: "tool_call_id" }, clip(call.id, 60)),
        h(
          "span",
          { class: "steps" },
          call.stepsForgotten > 0 && h("span", { class: "step" }, `${call.stepsForgotten} earlier`),
          ...call.steps.map((step, index) => stepView(step, call.steps[index - 1])),
        ),
        (call.detail || call.result) &&
          h("span", { class: call.result?.failed ? "call-detail bad" : "call-detail" },
            call.result ? preview(call.result.value ?? "", 220) : clip(call.detail, 220)),
      ),
      body,
    );
    const element = h("li", { class: "call", "data-testid": "tool-call", "data-status": last.status,
      "data-tool-call-id": call.id }, details);
    if (call.element) call.element.replaceWith(element);
    else $("tools").prepend(element);
    call.element = element;
  },

  clear() {
    tools.calls.clear();
    tools.dirty.clear();
    $("tools").replaceChildren();
    $("no-tools").hidden = false;
    $("tools-count").hidden = true;
  },
};

function stepView(step, before) {
  const since = before && Number.isFinite(step.at - before.until) ? ` +${duration(step.at - before.until)}` : "";
  return h("span", { class: `step ${moodOf(step.status)}`, title: timeOfDay(step.at) },
    clip(step.status, 30), step.times > 1 && ` ×${step.times}`, h("i", {}, since));
}

const MOODS = [
  ["good", /^(completed?|success|succeeded|done|finished|ok|result|approved)$/],
  ["bad", /^(failed|failure|error|timeout|denied|rejected)$/],
  ["busy", /^(executing|running|started|in_progress|progress|streaming)$/],
  ["asking", /^(waiting for you|waiting_permission|awaiting_permission|permission)$/],
];
const moodOf = (status) => MOODS.find(([, pattern]) => pattern.test(status))?.[0] ?? "idle";

// ── Permission requests ─────────────────────────────────────────────────────────────────────────────────────

const RISKS = {
  low: { label: "Low risk", sign: "M5 12.5 9.5 17 19 7.5" },
  medium: { label: "Medium risk", sign: "M12 5v9M12 18.5v.01" },
  high: { label: "High risk", sign: "M12 3 2.5 20h19zM12 9.5v5M12 17.3v.01" },
};

const OUTCOMES = {
  approved: "Approved",
  denied: "Denied",
  expired: "Expired",
  cancelled: "Cancelled",
  gone: "No longer open",
};

const requests = {
  /** request_id → request, in the order asked: open ones and those whose card is still on the page. */
  known: new Map(),
  /** request_id → outcome of those settled, so that a late duplicate never opens one again. */
  settled: new Map(),

  /** request_id → data of those that history shows as asked but not yet how they ended. */
  past: new Map(),

  get open() {
    return [...requests.known.values()].filter((request) => !request.decision);
  },

  ask(data, { stream, at }) {
    const id = data.request_id;
    if (typeof id !== "string" || requests.settled.has(id)) return;
    if (data.status !== undefined && data.status !== "pending") return;
    const known = requests.known.get(id);
    if (known) {
      known.confirmedBy = stream;
      return;
    }
    const request = {
      id, data, confirmedBy: stream, decision: null, sending: false, armed: null, editor: null, failure: null,
      expiresAt: Date.parse(data.expires_at), warned: false, guardedUntil: performance.now() + NEW_CARD_GUARD_MS,
      card: null, parts: null, keys: new Map(),
    };
    requests.known.set(id, request);
    drawCard(request);
    $("queue").append(request.card);
    measureParameters(request);
    setTimeout(() => refreshCard(request), NEW_CARD_GUARD_MS + 20);
    tools.permission(data, "waiting for you", at);
    requests.refresh();
    announce(`Permission asked: ${toolName(data) ?? "a tool"}, ${riskOf(data).label}. ${requests.open.length} waiting.`);
  },

  settle(id, decision, { mine = false, at = Date.parse(decision.decided_at) || clock.now() } = {}) {
    if (typeof id !== "string") return;
    // Told twice (reply and event) it counts once; but how it ended may replace that it is merely gone.
    if (requests.settled.has(id) && (requests.settled.get(id) !== "gone" || decision.outcome === "gone")) return;
    requests.settled.set(id, decision.outcome);
    forgetOldest(requests.settled, SETTLED_KEPT);
    const request = requests.known.get(id);
    const data = request?.data ?? requests.past.get(id) ?? { request_id: id };
    requests.past.delete(id);
    tools.permission(data, decision.outcome, at);
    const here = mine || (decision.client_id !== undefined && decision.client_id === CLIENT_ID);
    if (request) {
      if (!request.decision) setTimeout(() => requests.retire(request), SETTLED_CARD_STAYS_MS);
      request.decision = decision;
      request.sending = false;
      request.armed = null;
      const hadFocus = request.card.contains(document.activeElement);
      sealCard(request, verdict(decision, here));
      if (hadFocus) request.card.focus({ preventScroll: true });
      request.here = here;
      announce(`${toolName(data) ?? "Request"}: ${verdict(decision, here)}`);
    } else {
      logDecision(data, decision, here);
    }
    requests.refresh();
  },

  /** Note a request from history that is no longer open; how it ended follows, if history still has it. */
  recall(data, at) {
    if (typeof data.request_id !== "string" || requests.settled.has(data.request_id)) return;
    if (requests.known.has(data.request_id)) return requests.settle(data.request_id, { outcome: "gone" });
    requests.settled.set(data.request_id, "gone");
    requests.past.set(data.request_id, data);
    forgetOldest(requests.past, DECISIONS_KEPT);
    tools.permission(data, "asked", at);
  },

  /** Take a settled card away; those below move up, so their buttons are dead for a moment. */
  retire(request) {
    if (!request.card.isConnected) return;
    if (request.card.matches(":hover")) {
      setTimeout(() => requests.retire(request), 1_000);
      return;
    }
    const hadFocus = request.card.contains(document.activeElement);
    requests.known.delete(request.id);
    request.card.remove();
    logDecision(request.data, request.decision, request.here);
    for (const other of requests.open) guard(other, MOVED_CARD_GUARD_MS);
    if (hadFocus) (requests.open[0]?.card ?? $("requests")).focus({ preventScroll: true });
    requests.refresh();
  },

  expiring(id, expiresAt) {
    const request = requests.known.get(id);
    if (!request || request.decision) return;
    const time = Date.parse(expiresAt);
    if (Number.isFinite(time)) request.expiresAt = time;
    request.warned = true;
    refreshCard(request);
    announce(`${toolName(request.data) ?? "A request"} expires in ${countdown(request.expiresAt - clock.now())}.`);
  },

  /** Every open request is sent to every stream before `ready`: one that was not is no longer open. */
  sweep(stream) {
    for (const request of requests.open) {
      if (request.confirmedBy !== stream) requests.settle(request.id, { outcome: "gone", decided_by: null });
    }
  },

  tick() {
    for (const request of requests.open) refreshCard(request);
  },

  refresh() {
    const waiting = requests.open.length;
    $("no-requests").hidden = requests.known.size > 0 || $("decisions").childElementCount > 0;
    $("pending-count").hidden = waiting === 0;
    setText($("pending-count"), waiting);
    document.body.classList.toggle("asking", waiting > 0);
    const name = connection.session ? `${connection.session} · ${TITLE}` : TITLE;
    document.title = waiting > 0 ? `(${waiting}) ${name}` : name;
    const cards = requests.open;
    cards.forEach((request, index) => {
      setText(request.parts.place, cards.length > 1 ? `${index + 1} of ${cards.length}` : "");
    });
  },

  clear() {
    requests.known.clear();
    requests.settled.clear();
    requests.past.clear();
    $("queue").replaceChildren();
    $("decisions").replaceChildren();
    $("decisions").hidden = true;
    requests.refresh();
  },
};

/** A level this page does not know is treated as the highest: nobody may soften a request by misspelling it. */
function riskOf(data) {
  const level = Object.hasOwn(RISKS, data.risk_level) ? data.risk_level : "high";
  const label = level === data.risk_level ? RISKS[level].label : "Unknown risk";
  return { level, label, sign: RISKS[level].sign };
}

function verdict(decision, here) {
  const by = decision.decided_by;
  const why = firstText(decision.reason) ? ` “${clip(decision.reason, 300)}”` : "";
  switch (decision.outcome) {
    case "approved":
    case "denied": {
      const done = OUTCOMES[decision.outcome];
      const option = firstText(decision.option_id) ? ` (${clip(decision.option_id, 60)})` : "";
      if (here) return `${done} by you${option}.${why}`;
      return `${done}${option}: answered by ${by ?? "someone"} in another tab.${why}`;
    }
    case "expired":
      return "Expired: nobody answered in time.";
    case "cancelled":
      return `Cancelled: the agent no longer asks.${why}`;
    default:
      return "No longer open: settled while this page was not connected.";
  }
}

function drawCard(request) {
  const { data, id } = request;
  const risk = riskOf(data);
  const name = `request-${randomHex(4)}`;
  const tool = toolName(data) ?? "unnamed tool";
  const place = h("span", { class: "place" });
  const left = h("span", { class: "countdown", role: "timer", "aria-live": "off", "data-testid": "countdown" });
  const bar = h("div", { class: "deadline", "aria-hidden": "true" }, h("i"));
  const parameters = h("div", { class: "parameters", "data-testid": "parameters", role: "region", "aria-label": "Parameters" },
    jsonView(data.parameters ?? {}));
  const unfold = h("button", { type: "button", class: "unfold", hidden: true, "data-testid": "unfold",
    onclick: () => foldParameters(request, !parameters.classList.contains("folded")) });
  const reason = h("input", { id: `${name}-reason`, type: "text", maxlength: "2000", "data-testid": "reason",
    placeholder: "Tell the agent why", autocomplete: "off" });
  const problem = h("div", { class: "problem", role: "alert", "data-testid": "request-error", hidden: true });
  const edit = data.editable === true &&
    h("button", { type: "button", class: "quiet", "data-testid": "edit", onclick: () => toggleEditor(request) }, "Edit parameters");
  const buttons = choicesFor(data).map((choice) => choiceButton(request, choice));
  const outcome = h("p", { class: "outcome", "data-testid": "outcome", hidden: true });

  const card = h(
    "article",
    { class: "request", role: "dialog", "aria-modal": "false", "aria-labelledby": `${name}-title`,
      "aria-describedby": `${name}-about`, tabindex: "-1", "data-testid": "request", "data-request-id": id,
      "data-risk": risk.level, "data-state": "pending" },
    bar,
    h("header", {},
      h("span", { class: "risk", "data-testid": "risk" }, icon(risk.sign), risk.label),
      place,
      left),
    outcome,
    h("h3", { id: `${name}-title` },
      firstText(data.title) ? clip(data.title, 300) : "The agent asks for permission"),
    h("div", { id: `${name}-about` },
      h("p", { class: "tool" }, "Tool ", h("code", { "data-testid": "tool-name" }, nameView(clip(tool, 200)))),
      firstText(data.description) && h("p", { class: "description" }, show(data.description, { lines: true })),
      ...warnings(data, tool)),
    h("div", { class: "body" },
      h("div", { class: "label-row" }, h("h4", {}, "Parameters"), edit, copyButtonFor(data.parameters)),
      parameters,
      unfold,
      h("label", { for: `${name}-reason` }, "Reason ", h("span", {}, "optional")),
      reason,
      problem,
      h("div", { class: "choices", role: "group", "aria-label": "Your answer" }, ...buttons.map((b) => b.element))),
    h("footer", {},
      h("span", {}, "Request ", h("code", {}, clip(id, 128))),
      firstText(data.tool_call_id) && h("span", {}, "Call ", h("code", {}, clip(data.tool_call_id, 128)))),
  );
  // A key held down must not run through Approve and its confirmation.
  card.addEventListener("keydown", (event) => {
    if (event.repeat && (event.key === "Enter" || event.key === " ") && event.target.tagName === "BUTTON") event.preventDefault();
    if (event.key === "Escape") disarm(request);
  });
  request.card = card;
  request.parts = { place, left, bar, parameters, unfold, reason, problem, edit, buttons, outcome, name };
  refreshCard(request);
}

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

function copyButtonFor(parameters) {
  return copyButton(jsonText(parameters ?? {}));
}

/** What a careful person would want pointed out before reading on. */
function warnings(data, tool) {
  const found = [];
  if (isTricky(jsonStrings(data))) {
    found.push("This request contains hidden or direction-changing characters. They are marked like ⟨U+202E⟩.");
  }
  const foreign = [...new Set(tool.match(/[^\x20-\x7e]/gu) ?? [])].filter((character) => !isTricky(character));
  if (foreign.length > 0) {
    const list = foreign.slice(0, 4).map((character) => `${character} (${codePoint(character)})`).join(", ");
    found.push(`The tool's name has characters that can pass for others: ${list}.`);
  }
  return found.map((text) => h("p", { class: "warning", "data-testid": "warning" }, icon(RISKS.high.sign), h("span", {}, warningText(text))));
}

/** A tool's name with every character beyond plain ASCII underlined: а is not a. */
function nameView(name) {
  const fragment = document.createDocumentFragment();
  for (const part of name.split(/([^\x00-\x7e]+)/u)) {
    fragment.append(/^[^\x00-\x7e]/u.test(part) ? h("span", { class: "foreign" }, part) : show(part));
  }
  return fragment;
}

/** Our own sentence shows its example mark in the style it speaks of. */
function warningText(text) {
  const fragment = document.createDocumentFragment();
  for (const part of text.split(/(⟨U\+202E⟩)/)) {
    fragment.append(part === "⟨U+202E⟩" ? h("span", { class: "unseen" }, part) : show(part));
  }
  return fragment;
}

function jsonStrings(value) {
  let text = "";
  const take = (part) => (text += `${part}\n`);
  printJson(value, { text: () => {}, literal: () => {}, key: take, string: take });
  return text;
}

/** The buttons of a request: its own options, and a plain yes or no for the side that has none. */
function choicesFor(data) {
  const options = Array.isArray(data.options) ? data.options.filter((option) => isObject(option) && firstText(option.id)) : [];
  const choices = options.map((option) => {
    const approved = String(option.kind ?? "").startsWith("allow");
    return { approved, option, label: firstText(option.label) ?? option.id, testId: "option" };
  });
  if (!choices.some((choice) => !choice.approved)) choices.push({ approved: false, label: "Deny", testId: "deny" });
  if (!choices.some((choice) => choice.approved)) choices.push({ approved: true, label: "Approve", testId: "approve" });
  // No before yes, and the widest consent last: the order never depends on what the agent would like pressed.
  const reach = ["reject_always", "reject_once", "", "allow_once", "allow_session", "allow_always"];
  const rank = ({ approved, option }) => (option ? reach.indexOf(option.kind) : approved ? 3 : 1);
  return choices.sort((a, b) => Number(a.approved) - Number(b.approved) || rank(a) - rank(b));
}

/** What a wide answer covers is said on its button, whatever the agent called it. */
const REACH = { allow_session: "for this session", allow_always: "always", reject_always: "always" };

function choiceButton(request, choice) {
  const reach = choice.option && REACH[choice.option.kind];
  const label = h("span", {}, clip(choice.label, 120));
  const element = h(
    "button",
    { type: "button", class: choice.approved ? "approve" : "deny", "data-testid": choice.testId,
      "data-option-id": choice.option?.id, "data-kind": choice.option?.kind,
      onclick: () => choose(request, choice) },
    label,
    reach && !choice.label.toLowerCase().includes(reach) && h("small", {}, reach),
  );
  return { element, label, choice };
}

function measureParameters(request) {
  const { parameters } = request.parts;
  parameters.classList.add("folded");
  // Folding hides lines, so it is only done where that saves a lot, and the button says how many there are.
  if (parameters.scrollHeight - parameters.clientHeight > 60) foldParameters(request, true);
  else parameters.classList.remove("folded");
}

function foldParameters(request, folded) {
  const { parameters, unfold } = request.parts;
  parameters.classList.toggle("folded", folded);
  unfold.hidden = false;
  unfold.setAttribute("aria-expanded", String(!folded));
  const lines = parameters.textContent.split("\n").length;
  const count = lines > 1 ? `all ${lines} lines` : "everything";
  unfold.textContent = folded ? `More below: show ${count}` : "Show less";
}

function toggleEditor(request) {
  const { parameters, unfold, edit } = request.parts;
  if (request.editor) {
    request.editor.element.remove();
    request.editor = null;
    parameters.hidden = false;
    unfold.hidden = !parameters.classList.contains("folded") && parameters.scrollHeight < 260;
    edit.textContent = "Edit parameters";
    return;
  }
  const before = jsonText(request.data.parameters ?? {});
  const element = h("textarea", { class: "editor", "data-testid": "editor", spellcheck: "false", "aria-label": "Parameters as JSON" });
  element.value = before;
  element.rows = Math.min(20, before.split("\n").length + 1);
  parameters.before(element);
  parameters.hidden = true;
  unfold.hidden = true;
  edit.textContent = "Discard changes";
  request.editor = { element, before };
  element.focus();
}

function guard(request, ms) {
  request.guardedUntil = Math.max(request.guardedUntil, performance.now() + ms);
  refreshCard(request);
  setTimeout(() => refreshCard(request), ms + 20);
}

/** Bring countdown and buttons up to date; cheap, runs twice a second for each open request. */
function refreshCard(request) {
  if (request.decision || !request.parts) return;
  const { left, bar, buttons, reason } = request.parts;
  const remaining = request.expiresAt - clock.now();
  const known = Number.isFinite(remaining);
  const over = known && remaining <= 0;
  setText(left, !known ? "" : over ? "time is up" : `expires in ${countdown(remaining)}`);
  const asked = Date.parse(request.data.timestamp);
  const share = known && Number.isFinite(asked) ? remaining / (request.expiresAt - asked) : 1;
  bar.style.setProperty("--left", String(Math.min(1, Math.max(0, share))));
  request.card.classList.toggle("urgent", known && (request.warned || remaining < 30_000));
  request.card.dataset.state = request.sending ? "sending" : over ? "expiring" : request.failure ? "failed" : "pending";
  if (request.armed && performance.now() > request.armed.until) disarm(request);
  const dead = request.sending || over || performance.now() < request.guardedUntil;
  reason.disabled = request.sending;
  for (const { element } of buttons) {
    // aria-disabled keeps the focus where it is; `disabled` would throw it to the top of the page.
    element.setAttribute("aria-disabled", String(dead));
  }
}

function needsConfirmation(request, choice) {
  return choice.approved && riskOf(request.data).level === "high";
}

function choose(request, choice) {
  refreshCard(request);
  const button = request.parts.buttons.find((candidate) => candidate.choice === choice);
  if (request.decision || button.element.getAttribute("aria-disabled") === "true") return;
  if (needsConfirmation(request, choice)) {
    const now = performance.now();
    const armed = request.armed?.choice === choice ? request.armed : null;
    if (!armed) return arm(request, button);
    if (now < armed.notBefore) return;
  }
  disarm(request);
  answer(request, choice);
}

function arm(request, button) {
  disarm(request);
  const now = performance.now();
  request.armed = { choice: button.choice, notBefore: now + CONFIRM_NOT_BEFORE_MS, until: now + CONFIRM_NOT_AFTER_MS };
  button.element.classList.add("armed");
  button.label.replaceChildren(show(`Confirm: ${clip(button.choice.label, 100)}`));
  // Nobody confirms lines they have not been shown.
  if (request.parts.parameters.classList.contains("folded") && !request.editor) {
    foldParameters(request, false);
    button.element.scrollIntoView({ block: "nearest" });
  }
  announce("High risk. Press the same button again to confirm.");
  setTimeout(() => refreshCard(request), CONFIRM_NOT_AFTER_MS + 20);
}

function disarm(request) {
  if (!request.armed) return;
  const button = request.parts.buttons.find((candidate) => candidate.choice === request.armed.choice);
  request.armed = null;
  button.element.classList.remove("armed");
  button.label.replaceChildren(show(clip(button.choice.label, 120)));
}

/** The body of an answer as JSON text, or a sentence about what is wrong with the edited parameters. */
function answerBody(request, choice) {
  const reason = request.parts.reason.value.trim();
  const body = JSON.stringify({
    approved: choice.approved,
    request_id: request.id,
    reason: reason || undefined,
    option_id: choice.option?.id,
    args_digest: firstText(request.data.args_digest),
    client_id: CLIENT_ID,
  });
  const edited = request.editor?.element.value;
  if (!choice.approved || edited === undefined || edited === request.editor.before) return { body };
  try {
    if (!isObject(JSON.parse(edited))) return { fault: "The edited parameters must be a JSON object." };
  } catch (error) {
    return { fault: `The edited parameters are not valid JSON: ${error.message}` };
  }
  // Spliced in as text: a number too long for a double reaches the agent with all its digits.
  return { body: `${body.slice(0, -1)},"updated_input":${edited}}` };
}

async function answer(request, choice) {
  const { body, fault } = answerBody(request, choice);
  if (fault) return fail(request, choice, { message: fault, again: false });
  // The same answer sent twice carries the same key: whether the first one arrived no longer matters.
  if (!request.keys.has(body)) request.keys.set(body, randomHex(12));
  request.sending = true;
  request.failure = null;
  request.parts.problem.hidden = true;
  refreshCard(request);
  let response;
  let reply = {};
  try {
    response = await fetch(addressOf("permission-response"), {
      method: "POST",
      body,
      ...asWhom({ "Content-Type": "application/json", "Idempotency-Key": request.keys.get(body) }),
    });
    reply = parsedOr(await response.text(), {});
  } catch {
    return fail(request, choice, {
      message: "The gateway did not reply. Your answer may have arrived or not; sending it again is safe.",
    });
  } finally {
    request.sending = false;
  }
  const decision = decisionIn(reply);
  if (response.ok) {
    return requests.settle(request.id, decision ?? { outcome: choice.approved ? "approved" : "denied",
      reason: request.parts.reason.value.trim(), option_id: choice.option?.id }, { mine: !decision?.client_id });
  }
  if (decision) return requests.settle(request.id, decision);
  if (response.status === 410) return requests.settle(request.id, { outcome: "expired" });
  const wait = Number(response.headers.get("Retry-After"));
  fail(request, choice, {
    status: response.status,
    code: firstText(reply?.code),
    message: firstText(reply?.message) ?? `The gateway answered ${response.status} without a reason.`,
    waitSeconds: Number.isFinite(wait) ? Math.min(wait, 60) : 0,
  });
}

/** The decision in a reply, wherever the reply keeps it; undefined if it has none. */
function decisionIn(reply) {
  return [reply?.data?.decision, reply?.decision, reply?.data].find(
    (candidate) => isObject(candidate) && Object.hasOwn(OUTCOMES, candidate.outcome),
  );
}

function fail(request, choice, failure) {
  if (request.decision) return;
  request.failure = failure;
  const { problem } = request.parts;
  const again = failure.again !== false &&
    h("button", { type: "button", class: "quiet", "data-testid": "retry", onclick: () => {
      if (again.getAttribute("aria-disabled") !== "true") answer(request, choice);
    } }, `Send “${clip(choice.label, 40)}” again`);
  problem.replaceChildren(
    h("p", {}, failure.status && h("b", {}, `${failure.status}${failure.code ? ` ${failure.code}` : ""} `), failure.message),
    h("div", { class: "problem-actions" },
      again || null,
      failure.status === 401 && h("button", { type: "button", class: "quiet", onclick: () => showForm() }, "Use another token"),
      failure.status === 404 && h("button", { type: "button", class: "quiet", "data-testid": "dismiss",
        onclick: () => requests.settle(request.id, { outcome: "gone" }) }, "Dismiss")),
  );
  problem.hidden = false;
  if (again && failure.waitSeconds > 0) {
    again.setAttribute("aria-disabled", "true");
    setTimeout(() => again.removeAttribute("aria-disabled"), failure.waitSeconds * 1_000);
  }
  refreshCard(request);
}

function sealCard(request, text) {
  const { outcome, left, place } = request.parts;
  request.card.dataset.state = request.decision.outcome;
  request.card.classList.remove("urgent");
  outcome.replaceChildren(show(text));
  outcome.hidden = false;
  left.textContent = "";
  place.textContent = "";
}

function logDecision(data, decision, here) {
  $("decisions").hidden = false;
  const before = [...$("decisions").children].find((entry) => entry.dataset.requestId === data.request_id);
  const tool = toolName(data) ?? before?.dataset.tool ?? data.request_id;
  before?.remove();
  $("decisions").prepend(
    h("li", { class: "decision", "data-testid": "decision", "data-outcome": decision.outcome,
      "data-request-id": data.request_id, "data-tool": tool },
      h("b", { class: `verdict ${decision.outcome}` }, OUTCOMES[decision.outcome] ?? String(decision.outcome)),
      h("code", {}, clip(tool, 60)),
      h("span", { class: "by" }, byWhom(decision, here)),
      h("time", {}, timeOfDay(decision.decided_at ?? clock.now()).slice(0, 8)),
      firstText(decision.reason) && h("span", { class: "why" }, clip(decision.reason, 300))),
  );
  while ($("decisions").childElementCount > DECISIONS_KEPT) $("decisions").lastElementChild.remove();
}

function byWhom(decision, here) {
  if (decision.outcome !== "approved" && decision.outcome !== "denied") return "";
  return here ? "by you" : `by ${decision.decided_by ?? "someone"}`;
}

function announce(text) {
  $("announce").textContent = plain(text);
}

// ── The strip: what the gateway itself says ─────────────────────────────────────────────────────────────────

const strip = {
  facts(data) {
    const facts = [
      ["position", data.cursor],
      ["gateway", data.gateway_id],
      ["heartbeat", data.heartbeat_seconds && `every ${data.heartbeat_seconds} s`],
      ["replayed", data.replayed],
    ];
    $("facts").replaceChildren(
      ...facts.filter(([, value]) => value !== undefined && value !== null && value !== "")
        .map(([name, value]) => h("span", {}, `${name} `, h("code", { "data-fact": name }, clip(String(value), 80)))),
    );
    $("strip").hidden = false;
  },

  flush() {
    const shown = $("facts").querySelector('[data-fact="position"]');
    if (shown && connection.cursor) setText(shown, clip(connection.cursor, 80));
  },

  note(name, text, mood = "") {
    const line = () => [h("b", {}, name), " ", h("span", {}, text)];
    $("notice").replaceChildren(...line());
    $("notice").className = `notice ${mood}`;
    $("notices").prepend(h("li", { class: mood, "data-notice": name }, h("time", {}, timeOfDay(Date.now())), " ", ...line()));
    while ($("notices").childElementCount > NOTICES_KEPT) $("notices").lastElementChild.remove();
    $("strip").hidden = false;
  },
};

// ── Connection ──────────────────────────────────────────────────────────────────────────────────────────────

const CLOSING = {
  shutdown: "the gateway is restarting",
  unavailable: "the gateway cannot reach Redis",
  overloaded: "the gateway is at its limit",
  slow_client: "this page read too slowly",
  token_expired: "the token has expired",
  max_age: "the stream reached its greatest age",
  superseded: "a newer stream of this page took over",
  session_ended: "the session has ended",
};

const connection = {
  session: "",
  token: "",
  /** The position to go on from; only durable events move it. */
  cursor: "",
  source: null,
  /** Counts the streams this page has opened: tells what a stream confirmed from what an earlier one did. */
  stream: 0,
  ready: false,
  attempts: 0,
  retryAt: 0,
  timer: 0,
  heartbeatSeconds: 30,
  heardAt: 0,
  beatAt: 0,
};

function addressOf(resource) {
  return `${BASE}/${resource}/${encodeURIComponent(connection.session)}`;
}

/** An answer other than 200 to something a stream needs. */
class Refused extends Error {
  constructor(response, reply) {
    super(firstText(reply?.message) ?? `The gateway answered ${response.status}.`);
    this.status = response.status;
    this.code = firstText(reply?.code) ?? String(response.status);
    this.retryAfterMs = Number(response.headers.get("Retry-After")) * 1_000 || undefined;
  }
}

/**
 * The URL of the next stream: the one place that knows how a stream proves who it is. An EventSource cannot
 * send headers, and a token in a URL ends up in logs, so it goes by a ticket that is good for one use.
 */
async function streamAddress() {
  const response = await fetch(addressOf("ticket"), { method: "POST", ...asWhom() });
  const reply = parsedOr(await response.text(), {});
  if (!response.ok) throw new Refused(response, reply);
  const query = new URLSearchParams({ ticket: reply.data.ticket, client_id: CLIENT_ID });
  // A new EventSource forgets the last id of the old one, so the position travels in the query.
  if (connection.cursor) query.set("last_event_id", connection.cursor);
  // Who opens the console late wants to see how the session came to where it is.
  else query.set("replay", "all");
  return `${addressOf("events")}?${query}`;
}

function asWhom(headers = {}) {
  return {
    headers: { Authorization: `Bearer ${connection.token}`, ...headers },
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(REPLY_TIMEOUT_MS),
  };
}

/**
 * Open a stream. Reconnecting is ours and not the browser's: a native retry repeats the old URL (its ticket is
 * used up), tells no one when it will happen, and gives up for ever on any status but 200.
 */
async function openStream() {
  hangUp();
  const stream = (connection.stream += 1);
  setState("connecting", connection.attempts ? "reconnecting" : "connecting");
  let address;
  try {
    address = await streamAddress();
  } catch (error) {
    if (stream === connection.stream) refused(error);
    return;
  }
  if (stream !== connection.stream) return;
  const source = new EventSource(address);
  connection.source = source;
  connection.heardAt = Date.now();
  const listen = (name, handle) =>
    source.addEventListener(name, (event) => {
      if (source !== connection.source) return;
      connection.heardAt = Date.now();
      // Native sources carry the last id seen along on every event, also on those that have none.
      if (event.lastEventId) connection.cursor = event.lastEventId;
      handle(parsedOr(event.data, null), event);
    });
  source.addEventListener("open", () => {
    if (source === connection.source) setState("connecting", "catching up");
  });
  source.addEventListener("error", () => {
    if (source !== connection.source) return;
    const forGood = source.readyState === EventSource.CLOSED;
    hangUp();
    if (forGood) diagnose();
    else retryLater();
  });
  listen("message", takeMessage);
  for (const [name, handle] of Object.entries(NAMED)) listen(name, handle);
}

function takeMessage(envelope, { data: raw }) {
  if (!isObject(envelope)) return;
  const { type, data } = envelope;
  if (type === "heartbeat") return beat();
  if (type === "permission_request" && isObject(data)) {
    // The snapshot sends an open request to every stream again; the one already on the page stays.
    const repeated = !envelope.id && requests.known.has(data.request_id);
    requests.ask(data, { stream: connection.stream, at: Date.parse(envelope.timestamp) });
    if (repeated) return;
  }
  if (type === "permission_cleared" && isObject(data)) requests.settle(data.request_id, data, { at: Date.parse(envelope.timestamp) });
  tools.take(envelope);
  const mark = envelope.id ? "" : connection.ready ? "live only" : "snapshot";
  timeline.add(envelope, raw, mark);
}

/** What the gateway says of itself, by the name of the event. */
const NAMED = {
  ready(data) {
    if (!isObject(data)) return;
    connection.ready = true;
    connection.attempts = 0;
    if (Number(data.heartbeat_seconds) > 0) connection.heartbeatSeconds = Number(data.heartbeat_seconds);
    clock.learn(data.server_time);
    requests.sweep(connection.stream);
    strip.facts(data);
    strip.note("ready", data.replayed ? `live, ${data.replayed} events replayed` : "live");
    setState("live", "live");
    tick();
  },
  stream_reset(data) {
    timeline.clear();
    tools.clear();
    // Cards stay until `ready` tells which of them the snapshot confirmed: a half-written reason must survive.
    for (const request of requests.open) request.confirmedBy = 0;
    strip.note("stream_reset", `rebuilt from the snapshot: the position was ${data?.reason ?? "not usable"}`, "warn");
  },
  settled_request(envelope, { data: raw }) {
    if (!isObject(envelope) || !isObject(envelope.data)) return;
    requests.recall(envelope.data, Date.parse(envelope.timestamp));
    timeline.add(envelope, raw, "settled");
  },
  skipped(data) {
    strip.note("skipped", `${data?.transient ?? "some"} transient events were not sent to this page`, "warn");
  },
  token_expiring(data) {
    const left = Date.parse(data?.expires_at) - clock.now();
    strip.note("token_expiring", `the token expires in ${Number.isFinite(left) ? countdown(left) : "a minute"}`, "warn");
  },
  permission_expiring(data) {
    if (!isObject(data)) return;
    requests.expiring(data.request_id, data.expires_at);
    strip.note("permission_expiring", `${clip(String(data.request_id), 80)} expires soon`, "warn");
  },
  closing(data) {
    const reason = firstText(data?.reason) ?? "no reason given";
    const words = Object.hasOwn(CLOSING, reason) ? CLOSING[reason] : reason;
    strip.note("closing", `${reason}: ${words}`, "warn");
    hangUp();
    if (reason === "token_expired") return showForm("The token has expired. A new one carries on where this one stopped.");
    if (data?.reconnect === false) return setState("closed", `closed: ${words}`);
    retryLater(Number(data?.retry_ms), words);
  },
};

function beat() {
  connection.beatAt = Date.now();
  const element = $("beat");
  element.classList.remove("beating");
  // Reading a layout property lets the same animation start again.
  void element.offsetWidth;
  element.classList.add("beating");
  tick();
}

function hangUp() {
  clearTimeout(connection.timer);
  connection.source?.close();
  connection.source = null;
  connection.ready = false;
  connection.retryAt = 0;
}

function retryLater(ms, words) {
  hangUp();
  // Half of each delay is random: a gateway that restarts must not meet all its pages at the same moment.
  const backoff = Math.min(LONGEST_BACKOFF_MS, 1_000 * 2 ** connection.attempts) * (0.5 + Math.random() / 2);
  const delay = Number.isFinite(ms) && ms >= 0 ? ms : backoff;
  connection.attempts += 1;
  connection.retryAt = Date.now() + delay;
  connection.timer = setTimeout(openStream, delay);
  connection.why = words ?? "the connection was lost";
  tick();
}

/** A refused EventSource says nothing of why; the same request made with fetch does. */
async function diagnose() {
  const stream = connection.stream;
  const look = new AbortController();
  try {
    const asked = asWhom({ Accept: "text/event-stream", "Last-Event-ID": connection.cursor });
    const response = await fetch(addressOf("events"), { ...asked, signal: look.signal });
    if (response.status === 204) {
      if (stream === connection.stream) setState("closed", `closed: ${CLOSING.session_ended}`);
      return;
    }
    // It works after all: whatever stood in the way is gone.
    if (response.ok) throw new Error("try again");
    throw new Refused(response, parsedOr(await response.text(), {}));
  } catch (error) {
    if (stream === connection.stream) refused(error);
  } finally {
    look.abort();
  }
}

/** Come back later where that can help, else say what is wrong and ask for another token. */
function refused(error) {
  if (!(error instanceof Refused)) return retryLater();
  strip.note("refused", `${error.status} ${error.code}: ${error.message}`, "bad");
  if (error.status === 429 || error.status >= 500) return retryLater(error.retryAfterMs, error.message);
  showForm(error.message);
}

function setState(state, text) {
  const element = $("state");
  element.dataset.state = state;
  setText($("state-text"), text);
  $("reconnect").hidden = !(state === "reconnecting" || state === "closed");
  setText($("reconnect"), state === "closed" ? "Connect again" : "Retry now");
}

/** Twice a second: countdowns, the age of the last heartbeat, and the watch for a stream that went silent. */
function tick() {
  const now = Date.now();
  if (connection.retryAt) {
    const seconds = Math.max(0, Math.ceil((connection.retryAt - now) / 1_000));
    setState("reconnecting", `reconnecting in ${seconds} s`);
    $("state").title = plain(connection.why);
  } else {
    $("state").title = "";
  }
  setText($("beat-text"), connection.beatAt ? `last heartbeat ${Math.round((now - connection.beatAt) / 1_000)} s ago` : "no heartbeat yet");
  $("beat").classList.toggle("stale", connection.ready && now - connection.heardAt > connection.heartbeatSeconds * 1_500);
  requests.tick();
  // A connection can die without a word (a laptop that slept, a proxy that forgot it): only silence shows it.
  if (connection.ready && now - connection.heardAt > connection.heartbeatSeconds * 2_500 + 5_000) {
    strip.note("silent", `nothing heard for ${duration(now - connection.heardAt)}`, "warn");
    retryLater(0, "the stream fell silent");
  }
}

// ── Which session, whose token ──────────────────────────────────────────────────────────────────────────────

const STORED = "sse_gateway.console";

/** Take session and token out of the fragment (never sent to a server) and out of the address bar. */
function readAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const stored = parsedOr(sessionStorage.getItem(STORED) ?? "", null) ?? {};
  const session = fragment.get("session") ?? stored.session ?? "";
  const token = fragment.get("token") ?? (session === stored.session ? stored.token : undefined) ?? "";
  return { session, token };
}

function remember({ session, token }) {
  sessionStorage.setItem(STORED, JSON.stringify({ session, token }));
  history.replaceState(null, "", `${location.pathname}${location.search}#${new URLSearchParams({ session })}`);
}

function connect({ session, token }) {
  if (session !== connection.session) {
    connection.cursor = "";
    connection.session = session;
    timeline.clear();
    tools.clear();
    requests.clear();
  }
  connection.token = token;
  connection.attempts = 0;
  remember({ session, token });
  setText($("session-name"), session);
  const user = subjectOf(token);
  setText($("user-name"), user ? `as ${clip(user, 60)}` : "");
  $("try-it").replaceChildren(
    show(`redis-cli FCALL sse_publish 1 ${session} \\\n  '{"type":"tool_status","data":{"tool_name":"bash","status":"executing"}}'`, { lines: true }),
  );
  $("connect").hidden = true;
  $("board").hidden = false;
  $("change").hidden = false;
  $("beat").hidden = false;
  requests.refresh();
  openStream();
}

/** The token's user, for display only: the gateway is the one that checks tokens. */
function subjectOf(token) {
  try {
    const payload = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    return firstText(JSON.parse(new TextDecoder().decode(bytes)).sub) ?? "";
  } catch {
    return "";
  }
}

function showForm(problem) {
  hangUp();
  connection.stream += 1;
  setState("closed", problem ? "closed" : "not connected");
  $("reconnect").hidden = true;
  $("connect").hidden = false;
  $("board").hidden = true;
  $("beat").hidden = true;
  $("change").hidden = true;
  $("connect-problem").hidden = !problem;
  $("connect-problem").replaceChildren(show(problem ?? ""));
  $("session-input").value = connection.session || readAddress().session;
  $("token-input").value = "";
  ($("session-input").value ? $("token-input") : $("session-input")).focus();
}

function begin() {
  const { session, token } = readAddress();
  if (/^[A-Za-z0-9._:-]{1,128}$/.test(session) && token) return connect({ session, token });
  if (session) history.replaceState(null, "", `${location.pathname}${location.search}#${new URLSearchParams({ session })}`);
  showForm();
}

function start() {
  $("connect-form").addEventListener("submit", (event) => {
    event.preventDefault();
    connect({ session: $("session-input").value.trim(), token: $("token-input").value.trim() });
  });
  $("reconnect").addEventListener("click", () => openStream());
  $("change").addEventListener("click", () => {
    sessionStorage.removeItem(STORED);
    showForm();
  });
  $("clear").addEventListener("click", () => timeline.clear());
  $("latest").addEventListener("click", timeline.toEnd);
  $("scroller").addEventListener("scroll", timeline.look, { passive: true });
  // `toggle` does not bubble, so one listener for all rows has to catch it on the way down.
  $("events").addEventListener("toggle", (event) => timeline.open(event.target), true);
  addEventListener("hashchange", () => new URLSearchParams(location.hash.slice(1)).has("session") && begin());
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("requests").focus();
  });
  addEventListener("online", () => connection.retryAt && openStream());
  addEventListener("pagehide", hangUp);
  addEventListener("pageshow", (event) => event.persisted && connection.token && openStream());
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea");
    if (event.key === "p" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) requests.open[0]?.card.focus();
  });
  setInterval(tick, 500);
  begin();
}

start();
