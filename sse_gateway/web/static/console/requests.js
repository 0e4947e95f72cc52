/**
 * Permission requests: which are open, and answering them. The gateway decides, the page displays: countdown, buttons
 * and colours are advice; what counts is the gateway's reply and the `permission_cleared` event.
 */

import {
  announce, arm, DECISIONS_KEPT, disarm, drawCard, guard, logDecision, measureParameters, NEW_CARD_GUARD_MS,
  OUTCOMES, refreshCard, riskOf, sealCard, verdict,
} from "./cards.js";
import { toolName } from "./events.js";
import { addressOf, asWhom, CLIENT_ID, connection } from "./gateway.js";
import { parsedOr } from "./json.js";
import { $, clip, firstText, forgetOldest, h, isObject, randomHex, setText } from "./text.js";
import { clock, countdown } from "./time.js";
import { tools } from "./tools.js";

const TITLE = document.title;
const SETTLED_KEPT = 2_000;
const MOVED_CARD_GUARD_MS = 800;
const SETTLED_CARD_STAYS_MS = 3_000;

export const requests = {
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
      card: null, parts: null, keys: new Map(), choose: (choice) => choose(request, choice),
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
      failure.status === 401 && h("button", { type: "button", class: "quiet", onclick: () => connection.askForToken() }, "Use another token"),
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
