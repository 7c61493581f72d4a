import { ApiError, parseExactly, refuseErrors, Unreachable } from "./api.js";
import { patiently, pause } from "./connection.js";
import { user } from "./storage.js";

const SILENCE_MS = 35_000; // the server says something every 10 s, if only a comment
const IDLE_WAIT_MS = 1_000;

/** Every event of a job after number `after`, across lost connections, until `signal` or the end
 * of a job: `isOver(event)`. Raises ApiError where there is nothing to follow (any more). */
export async function* follow(jobId, { after, signal, isOver }) {
  let last = after;
  while (!signal.aborted) {
    const response = await patiently(() => open(jobId, last, signal), signal);
    let isIdle = true;
    try {
      for await (const event of events(response.body, signal)) {
        isIdle = false;
        if (event.id !== null) last = event.id;
        yield event;
        if (isOver(event)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Unreachable)) throw error;
    }
    if (isIdle) await pause(IDLE_WAIT_MS, signal); // it ends at once: something in between is at fault
  }
}

async function open(jobId, last, signal) {
  const query = new URLSearchParams({ user, previews: "1" });
  const headers = { accept: "text/event-stream" };
  if (last > 0) headers["last-event-id"] = String(last);
  let response;
  try {
    response = await fetch(`v1/jobs/${encodeURIComponent(jobId)}/events?${query}`, { headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Unreachable(error.message);
  }
  if (response.status === 400 && last > 0) return open(jobId, 0, signal); // of another store's numbers
  await refuseErrors(response);
  return response;
}

/** Reads server-sent events: {id, type, data}. Raises Unreachable when the connection is lost. */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", fields = { data: [] };
  try {
    for (;;) {
      const chunk = await readInTime(reader, signal);
      if (chunk.done) throw new Unreachable("the stream ended");
      const lines = (rest + chunk.value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (fields.data.length) yield readEvent(fields);
          fields = { data: [] };
        } else if (!line.startsWith(":")) {
          const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
          if (name === "data") fields.data.push(value);
          else fields[name] = value;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have broken already
  }
}

function readEvent({ id, event, data }) {
  return { id: /^\d+$/.test(id ?? "") ? Number(id) : null, type: event ?? "", data: parseExactly(data.join("\n")) };
}

async function readInTime(reader, signal) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Unreachable("silence")), SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new Unreachable(error.message);
  } finally {
    clearTimeout(timer);
  }
}
