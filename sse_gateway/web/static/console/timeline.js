/** All events, in the order they came. */

import { kindOf, summary } from "./events.js";
import { jsonView, parsedOr } from "./json.js";
import { $, clip, copyButton, h, setText } from "./text.js";
import { frame, timeOfDay } from "./time.js";

const EVENTS_KEPT = 500;
const FILTERS_KEPT = 10;

export const timeline = {
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

frame.painters.push(timeline.flush);
