/** The stream: opening it, taking what it brings, and coming back when it is lost. */

import { addressOf, asWhom, CLIENT_ID, connection, Refused } from "./gateway.js";
import { parsedOr } from "./json.js";
import { requests } from "./requests.js";
import { strip } from "./strip.js";
import { $, clip, firstText, isObject, plain, setText } from "./text.js";
import { clock, countdown, duration } from "./time.js";
import { timeline } from "./timeline.js";
import { tools } from "./tools.js";

const LONGEST_BACKOFF_MS = 6_000;

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

/**
 * Open a stream. Reconnecting is ours and not the browser's: a native retry repeats the old URL (its ticket is
 * used up), tells no one when it will happen, and gives up for ever on any status but 200.
 */
export async function openStream() {
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
    if (reason === "token_expired") return connection.askForToken("The token has expired. A new one carries on where this one stopped.");
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

export function hangUp() {
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
  connection.askForToken(error.message);
}

export function setState(state, text) {
  const element = $("state");
  element.dataset.state = state;
  setText($("state-text"), text);
  $("reconnect").hidden = !(state === "reconnecting" || state === "closed");
  setText($("reconnect"), state === "closed" ? "Connect again" : "Retry now");
}

/** Twice a second: countdowns, the age of the last heartbeat, and the watch for a stream that went silent. */
export function tick() {
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
