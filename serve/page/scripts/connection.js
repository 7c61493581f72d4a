import { ApiError, isPassing } from "./api.js";
import { $, say } from "./dom.js";
import { duration } from "./format.js";
import { t } from "./page_data.js";

const FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 5_000, LONGEST_TURN_MS = 60_000;

/** Somebody said that what was tried is not to be tried any more. */
export class Stopped extends Error {}

let isLost = false;

function lose(text) {
  isLost = true;
  $("banner").className = "banner shown lost";
  say($("connection"), text);
}

export function restore() {
  if (!isLost) return;
  isLost = false;
  $("banner").className = "banner";
  say($("connection"), t("restored"));
}

/** What `attempt` answers; while the server is away it is made again, and the page says so. */
export async function patiently(attempt, signal) {
  for (let tries = 0; ; tries += 1) {
    try {
      const answer = await attempt();
      restore();
      return answer;
    } catch (error) {
      if (!isPassing(error) || signal?.aborted) {
        if (error instanceof ApiError) restore();
        throw error;
      }
      lose(t(error instanceof ApiError ? "not_ready" : "lost"));
      await pause(waitAfter(tries), signal);
    }
  }
}

/** The same for what somebody has sent, also where the queue is full; meanwhile the page offers to
 * stop. `attempt` is given a signal. Raises Stopped. */
export async function patientlyUnlessStopped(attempt) {
  const stopping = new AbortController(), { signal } = stopping, button = $("stop-trying");
  const stop = () => {
    stopping.abort();
    $("draw").focus();  // the button is about to go, and would take the focus to nowhere
  };
  button.addEventListener("click", stop);
  try {
    for (let tries = 0; !signal.aborted; tries += 1) {
      try {
        const answer = await attempt(signal);
        restore();
        return answer;
      } catch (error) {
        const isFull = error instanceof ApiError && error.code === "overloaded" && error.retryAfterMs !== null;
        if (!signal.aborted && !isFull && !isPassing(error)) {
          if (error instanceof ApiError) restore();
          throw error;
        }
        if (signal.aborted) break;
        const waits = isFull ? Math.min(error.retryAfterMs, LONGEST_TURN_MS) : waitAfter(tries);
        lose(isFull ? t("full", { time: duration(waits) }) : t(error instanceof ApiError ? "not_ready" : "lost"));
        button.hidden = false;
        await pause(waits, signal);
      }
    }
    restore();
    say($("connection"), t("stopped"));
    throw new Stopped();
  } finally {
    button.removeEventListener("click", stop);
    button.hidden = true;
  }
}

const waitAfter = (tries) => Math.min(FIRST_WAIT_MS * 2 ** tries, LONGEST_WAIT_MS);

/** So many milliseconds, or until the network is back, or `signal`. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    signal?.addEventListener("abort", done);
  });
}
