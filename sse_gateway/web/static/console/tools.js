/** What became of each tool call. */

import { argumentsOf, isFailure, resultOf, toolName } from "./events.js";
import { jsonView, preview } from "./json.js";
import { $, clip, firstText, forgetOldest, h, isObject, setText } from "./text.js";
import { duration, frame, timeOfDay } from "./time.js";

const CALLS_KEPT = 60;
const STEPS_KEPT = 12;

export const tools = {
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

frame.painters.push(tools.flush);
