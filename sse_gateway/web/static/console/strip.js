/** The strip at the foot: what the gateway says of itself. */

import { connection } from "./gateway.js";
import { $, clip, h, setText } from "./text.js";
import { frame, timeOfDay } from "./time.js";

const NOTICES_KEPT = 60;

export const strip = {
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

frame.painters.push(strip.flush);
