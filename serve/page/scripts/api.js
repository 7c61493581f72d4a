// Calls to this server. Paths are relative to the page, so that a prefix does not matter.
const CALL_TIMEOUT_MS = 30_000, SLOWEST_BYTES_PER_MS = 50; // of an upload

/** An answer that says no, in the API's words. */
export class ApiError extends Error {
  constructor(status, { message, code, param, retry_after_ms: retryAfterMs } = {}) {
    super(typeof message === "string" ? message : "");
    this.status = status;
    this.code = typeof code === "string" ? code : "";
    this.param = typeof param === "string" ? param : null;
    this.retryAfterMs = retryAfterMs ?? null;
  }
}

/** No answer of the application's own: it is restarting, or the network is gone. */
export class Unreachable extends Error {}

/** Whether the same call may do later. */
export const isPassing = (error) => error instanceof Unreachable
  || (error instanceof ApiError && error.status === 503);

/** JSON without loss: a seed may have more digits than a JavaScript number. Those stay text. */
export function parseExactly(text) {
  return JSON.parse(text, (_, value, context) => (
    Number.isInteger(value) && !Number.isSafeInteger(value) ? context?.source ?? value : value));
}

/** The other way: digits that are too many for a number, as a number. */
export function exactNumber(digits) {
  const number = Number(digits);
  return Number.isSafeInteger(number) || !JSON.rawJSON ? number : JSON.rawJSON(digits);
}

export async function call(method, path, { body, headers = {}, signal, raw = false } = {}) {
  const sent = { method, headers: { ...headers }, cache: "no-store" };
  if (body instanceof Blob) sent.body = body;
  else if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers["content-type"] = "application/json";
  }
  const limit = AbortSignal.timeout(CALL_TIMEOUT_MS + (sent.body?.size ?? sent.body?.length ?? 0) / SLOWEST_BYTES_PER_MS);
  try {
    const response = await fetch(path, { ...sent, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    await refuseErrors(response);
    if (raw) return await response.blob();
    return response.status === 204 ? null : parseExactly(await response.text());
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    throw new Unreachable(error.message);
  }
}

/** Raises what an answer that is not a success says. */
export async function refuseErrors(response) {
  if (response.ok) return;
  let said = null;
  try {
    said = JSON.parse(await response.text()).error;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error; // Serve's own answers are plain text
  }
  if (said === null || typeof said !== "object") {
    // While an application is deployed, Serve's proxy knows no path: its 404 is not ours.
    if (response.status >= 500 || response.status === 404) throw new Unreachable(String(response.status));
    said = {};
  }
  const after = Number(response.headers.get("retry-after-ms") ?? NaN);
  throw new ApiError(response.status, { ...said, retry_after_ms: Number.isFinite(after) ? after : null });
}
