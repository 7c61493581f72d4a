import { ApiError, call, Unreachable } from "./api.js";
import { patiently, patientlyUnlessStopped, pause } from "./connection.js";
import { follow } from "./event_stream.js";
import { randomId, user } from "./storage.js";

const FOLLOWED = 2; // a browser has six connections for all tabs of a server
const POLL_MS = 3_000, PAGE = 24;
const PREVIEW_TYPES = ["image/jpeg", "image/webp", "image/png"];

export const isActive = (job) => job.status === "queued" || job.status === "running";

/** A job as it is after `heard` of it, which may be partial, and older than what is known: events
 * are told again from the first, and answers overtake each other. */
function newer(known, heard) {
  const isAnew = heard.attempts > known.attempts; // another runner goes on from a checkpoint
  if (!isActive(known) && isActive({ ...known, ...heard })) return known;
  const { status, progress, ...rest } = heard;
  const merged = { ...known, ...rest };
  if (status !== undefined && (isAnew || !(status === "queued" && known.status === "running"))) merged.status = status;
  if (progress && (isAnew || !(progress.fraction < known.progress?.fraction))) {
    merged.progress = progress;
    if (heard.eta === undefined) merged.eta = shorter(known, progress);
  }
  return merged;
}

/** What is left of the time that the job `known` was to take, when it has come as far as `progress`. */
function shorter({ eta, progress: before }, progress) {
  const left = 1 - (before?.fraction ?? 0);
  return eta && left > 0 ? { ...eta, ms: Math.round((eta.ms * (1 - progress.fraction)) / left) } : eta;
}

/** The jobs of this browser, as the server has them. Each is {job, previews, isGone}.
 *
 * `changed(entry, before)` is called with the status that it had, `listed()` when some come or go,
 * `told()` when that happens in another tab. */
export class Jobs {
  #entries = new Map();
  #streams = new Map();
  #selected = null;
  #cursor = null;
  #timer = null;
  #channel = null;

  constructor({ changed, listed, told }) {
    this.changed = changed;
    this.listed = listed;
    if (typeof BroadcastChannel === "function") {
      this.#channel = new BroadcastChannel("sluice.jobs");
      this.#channel.onmessage = told;
    }
  }

  /** All that are known, the newest first. */
  get entries() {
    return [...this.#entries.values()].sort((a, b) => b.job.created_at - a.job.created_at);
  }

  get hasOlder() {
    return this.#cursor !== null;
  }

  get(id) {
    return this.#entries.get(id);
  }

  /** The job that is looked at: its events are followed before all others'. */
  select(id) {
    this.#selected = id;
    this.attend();
  }

  /** The newest, from the server; what it has deleted goes. */
  async load() {
    const known = [...this.#entries.values()];
    const page = await patiently(() => this.#page({ limit: PAGE }));
    for (const job of page.data) this.#take(job);
    if (known.length === 0) this.#cursor = page.next_cursor ?? null;
    const here = new Set(page.data.map(({ id }) => id));
    const oldest = page.next_cursor ? page.data.at(-1).created_at : -Infinity;
    for (const entry of known) if (!here.has(entry.job.id) && entry.job.created_at > oldest) this.#forget(entry);
    this.listed();
    this.attend();
  }

  async loadOlder() {
    const page = await patiently(() => this.#page({ limit: PAGE, cursor: this.#cursor }));
    for (const job of page.data) this.#take(job);
    this.#cursor = page.next_cursor ?? null;
    this.listed();
    this.attend();
  }

  /** One job that is not among the listed ones; null where there is none. */
  async find(id) {
    try {
      this.#take(await patiently(() => this.#call("GET", id)));
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return null;
      throw error;
    }
    this.listed();
    this.attend();
    return this.get(id);
  }

  /** Submits once, however often the server has to be asked. Raises Stopped. */
  async submit(body) {
    const headers = { "idempotency-key": randomId() };
    const job = await patientlyUnlessStopped((signal) => call("POST", "v1/jobs", { body: { ...body, user }, headers, signal }));
    this.#take(job);
    this.#tellOthers();
    return this.get(job.id);
  }

  cancel = (id) => this.#act(id, "cancel");
  keep = (id) => this.#act(id, "keep");

  async remove(id) {
    try {
      await patiently(() => this.#call("DELETE", id));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
    }
    this.#entries.delete(id);
    this.listed();
    this.#tellOthers();
  }

  async #act(id, action) {
    try {
      this.#take(await patiently(() => this.#call("POST", id, `/${action}`)));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
      this.#lose(id);
    }
    this.attend();
  }

  #call(method, id, rest = "") {
    return call(method, `v1/jobs/${encodeURIComponent(id)}${rest}?${new URLSearchParams({ user })}`);
  }

  #page(query) {
    return call("GET", `v1/jobs?${new URLSearchParams({ user, ...query })}`);
  }

  #tellOthers() {
    this.#channel?.postMessage(null);
    this.listed();
    this.attend();
  }

  #take(job) {
    const entry = this.#entries.get(job.id);
    if (!entry) {
      this.#entries.set(job.id, { job, previews: new Map(), isGone: false, last: job.last_event ?? 0 });
      return;
    }
    const before = entry.job.status;
    entry.job = newer(entry.job, job);
    this.changed(entry, before);
  }

  /** A job that the server does not have any more. */
  #lose(id) {
    const entry = this.#entries.get(id);
    if (!entry || entry.isGone) return;
    entry.isGone = true;
    this.changed(entry, entry.job.status);
  }

  /** One that was deleted in another tab is listed no longer; one that was lost says so. */
  #forget(entry) {
    this.#lose(entry.job.id);
    if (!isActive(entry.job)) this.#entries.delete(entry.job.id);
  }

  /** Follows those that matter most, and asks for the others now and then, and for those that wait:
   * no event says that a queue moves. A tab that nobody looks at leaves the connections to others. */
  attend() {
    const active = this.entries.filter(({ job, isGone }) => isActive(job) && !isGone);
    const weight = ({ job }) => (job.id === this.#selected ? 4 : 0)
      + (this.#streams.has(job.id) ? 2 : 0) + (job.status === "running" ? 1 : 0);
    const followed = [...active.reverse()].sort((a, b) => weight(b) - weight(a)).slice(0, document.hidden ? 0 : FOLLOWED);
    const ids = new Set(followed.map(({ job }) => job.id));
    for (const [id, stream] of this.#streams) if (!ids.has(id)) stream.abort();
    for (const entry of followed) if (!this.#streams.has(entry.job.id)) this.#follow(entry);
    const hasMore = active.length > followed.length || active.some(({ job }) => job.status === "queued");
    if (hasMore) this.#timer ??= setTimeout(() => this.#poll(), POLL_MS);
  }

  async #poll() {
    try {
      const page = await this.#page({ status: "queued,running", limit: 100 });
      const here = new Set(page.data.map(({ id }) => id));
      for (const job of page.data) this.#take(job);
      const waiting = this.entries.filter(({ job, isGone }) => isActive(job) && !isGone && !this.#streams.has(job.id));
      for (const { job } of waiting) if (!here.has(job.id)) await this.#ask(job.id);
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof Unreachable)) throw error; // the next may do
    } finally {
      this.#timer = null;
    }
    this.attend();
  }

  async #ask(id) {
    try {
      this.#take(await this.#call("GET", id));
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
      this.#lose(id);
    }
  }

  async #follow(entry) {
    const { id } = entry.job, stream = new AbortController();
    this.#streams.set(id, stream);
    const isOver = ({ data }) => data.job !== undefined && !isActive(data.job);
    try {
      for await (const event of follow(id, { after: entry.last, signal: stream.signal, isOver })) this.#hear(entry, event);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.#lose(id);
      else if (error instanceof ApiError) await pause(POLL_MS, stream.signal);
      else if (!stream.signal.aborted && !(error instanceof Unreachable)) throw error;
    } finally {
      if (this.#streams.get(id) === stream) this.#streams.delete(id);
    }
    this.attend();
  }

  #hear(entry, { id, type, data }) {
    if (id !== null) entry.last = id;
    if (type === "job.preview") {
      if (!PREVIEW_TYPES.includes(data.media_type) || !isActive(entry.job)) return;
      entry.previews.set(data.image, `data:${data.media_type};base64,${data.b64}`);
      this.changed(entry, entry.job.status);
    } else if (type === "job.image" && data.output) {
      const others = (entry.job.outputs ?? []).filter(({ image }) => image !== data.output.image);
      this.#take({ id: entry.job.id, outputs: [...others, data.output] });
    } else {
      const { job, progress } = data;
      this.#take({ ...(progress ? { progress } : {}), ...job, id: entry.job.id });
    }
  }
}
