/** The gateway's clock, how times are written, and when the page is drawn again. */

const REDRAW_EVERY_MS = 80;

/** The gateway's clock as far as this page knows it: deadlines are the gateway's, this machine's may be wrong. */
export const clock = {
  offset: 0,
  now: () => Date.now() + clock.offset,
  learn(serverTime) {
    const time = Date.parse(serverTime);
    if (Number.isFinite(time)) clock.offset = time - Date.now();
  },
};

const pad = (number, width = 2) => String(number).padStart(width, "0");

export function timeOfDay(timestamp) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return "--:--:--";
  return `${pad(time.getHours())}:${pad(time.getMinutes())}:${pad(time.getSeconds())}.${pad(time.getMilliseconds(), 3)}`;
}

export function duration(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60_000)} min ${pad(Math.floor((ms % 60_000) / 1_000))} s`;
}

export function countdown(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1_000));
  if (seconds >= 3_600) return `${Math.floor(seconds / 3_600)} h ${pad(Math.floor((seconds % 3_600) / 60))} min`;
  return `${Math.floor(seconds / 60)}:${pad(seconds % 60)}`;
}

/** The frame loop: what may wait until the page is painted again is drawn by `painters`. */
export const frame = {
  painters: [],
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
    for (const paint of frame.painters) paint();
  },
};
