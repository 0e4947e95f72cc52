/**
 * The developer console: watch one session, answer what its agent asks.
 *
 * Three rules hold everywhere.
 * 1. Text from outside reaches the page only by way of `console/text.js`, which makes visible what would not be
 *    seen: the person who approves must see what the agent will run.
 * 2. The gateway decides, the page displays.
 * 3. Permission requests are handled at once, everything else at the next animation frame: a burst of events
 *    must not delay a question, and a hidden tab (which gets no frames) must still count it in its title.
 *
 * No framework, no build step, nothing from another origin: these files are served as they stand under a CSP of
 * `default-src 'none'`.
 */

import { connection } from "./console/gateway.js";
import { parsedOr } from "./console/json.js";
import { requests } from "./console/requests.js";
import { hangUp, openStream, setState, tick } from "./console/stream.js";
import { $, clip, firstText, setText, show } from "./console/text.js";
import { timeline } from "./console/timeline.js";
import { tools } from "./console/tools.js";

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
  connection.askForToken = showForm;
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
