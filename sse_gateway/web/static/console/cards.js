/** The card of a permission request: what is asked, how long it may be answered, and by which buttons. */

import { toolName } from "./events.js";
import { jsonText, jsonView, printJson } from "./json.js";
import {
  $, clip, codePoint, copyButton, firstText, h, isObject, isTricky, plain, randomHex, setText, show,
} from "./text.js";
import { clock, countdown, timeOfDay } from "./time.js";

/** How long a new card's buttons stay dead: the click under way was meant for something else. */
export const NEW_CARD_GUARD_MS = 1_000;
/** A high-risk approval wants two clicks, neither too close together (a double click) nor too far apart. */
const CONFIRM_NOT_BEFORE_MS = 600;
const CONFIRM_NOT_AFTER_MS = 6_000;
export const DECISIONS_KEPT = 20;

const RISKS = {
  low: { label: "Low risk", sign: "M5 12.5 9.5 17 19 7.5" },
  medium: { label: "Medium risk", sign: "M12 5v9M12 18.5v.01" },
  high: { label: "High risk", sign: "M12 3 2.5 20h19zM12 9.5v5M12 17.3v.01" },
};

export const OUTCOMES = {
  approved: "Approved",
  denied: "Denied",
  expired: "Expired",
  cancelled: "Cancelled",
  gone: "No longer open",
};

/** A level this page does not know is treated as the highest: nobody may soften a request by misspelling it. */
export function riskOf(data) {
  const level = Object.hasOwn(RISKS, data.risk_level) ? data.risk_level : "high";
  const label = level === data.risk_level ? RISKS[level].label : "Unknown risk";
  return { level, label, sign: RISKS[level].sign };
}

export function verdict(decision, here) {
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

export function drawCard(request) {
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
      onclick: () => request.choose(choice) },
    label,
    reach && !choice.label.toLowerCase().includes(reach) && h("small", {}, reach),
  );
  return { element, label, choice };
}

export function measureParameters(request) {
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

export function guard(request, ms) {
  request.guardedUntil = Math.max(request.guardedUntil, performance.now() + ms);
  refreshCard(request);
  setTimeout(() => refreshCard(request), ms + 20);
}

/** Bring countdown and buttons up to date; cheap, runs twice a second for each open request. */
export function refreshCard(request) {
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

export function arm(request, button) {
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

export function disarm(request) {
  if (!request.armed) return;
  const button = request.parts.buttons.find((candidate) => candidate.choice === request.armed.choice);
  request.armed = null;
  button.element.classList.remove("armed");
  button.label.replaceChildren(show(clip(button.choice.label, 120)));
}

export function sealCard(request, text) {
  const { outcome, left, place } = request.parts;
  request.card.dataset.state = request.decision.outcome;
  request.card.classList.remove("urgent");
  outcome.replaceChildren(show(text));
  outcome.hidden = false;
  left.textContent = "";
  place.textContent = "";
}

export function logDecision(data, decision, here) {
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

export function announce(text) {
  $("announce").textContent = plain(text);
}
