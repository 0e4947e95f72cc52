/** Which session this page watches, as whom, and how the gateway is asked. */

import { firstText, randomHex } from "./text.js";

const BASE = location.pathname.replace(/\/console\/?$/, "");
// Made anew for each page load and not stored: a duplicated tab copies sessionStorage, and two pages with one
// client_id would throw each other off the stream for ever.
export const CLIENT_ID = `console-${randomHex(8)}`;
const REPLY_TIMEOUT_MS = 15_000;

export const connection = {
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
  /** Set by the page: shows the form that asks for a token, and what was wrong with the last one. */
  askForToken: (_problem) => {},
};

export function addressOf(resource) {
  return `${BASE}/${resource}/${encodeURIComponent(connection.session)}`;
}

/** An answer other than 200 to something a stream needs. */
export class Refused extends Error {
  constructor(response, reply) {
    super(firstText(reply?.message) ?? `The gateway answered ${response.status}.`);
    this.status = response.status;
    this.code = firstText(reply?.code) ?? String(response.status);
    this.retryAfterMs = Number(response.headers.get("Retry-After")) * 1_000 || undefined;
  }
}

export function asWhom(headers = {}) {
  return {
    headers: { Authorization: `Bearer ${connection.token}`, ...headers },
    cache: "no-store",
    credentials: "omit",
    signal: AbortSignal.timeout(REPLY_TIMEOUT_MS),
  };
}
