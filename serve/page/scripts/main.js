import { ApiError, call } from "./api.js";
import { Composer } from "./composer.js";
import { restore, Stopped } from "./connection.js";
import { $, announce, showOnScreen } from "./dom.js";
import { listenToDrops } from "./drops.js";
import { wholePercents } from "./format.js";
import { Gallery } from "./gallery.js";
import { isActive, Jobs } from "./jobs.js";
import { t, textOr } from "./page_data.js";
import { explain } from "./problems.js";
import { Receipts } from "./receipts.js";
import { fileOf, inputOf, settingsIn, settingsOf } from "./settings.js";
import { randomId } from "./storage.js";
import { Stage, statusOf } from "./stage.js";

const HALF = 0.5;

const jobs = new Jobs({ changed, listed: () => gallery.list(), told: () => attempt(() => jobs.load()) });
const gallery = new Gallery(jobs, { choose: (entry) => choose(entry, { moves: true }), use: drawFrom });
const composer = new Composer(submit);
const receipts = new Receipts({ use: reuse, draw: (request) => attempt(() => submit(request)) });
const stage = new Stage({
  cancel: (entry) => attempt(() => jobs.cancel(entry.job.id)),
  keep: (entry) => attempt(() => jobs.keep(entry.job.id)),
  again: (entry) => attempt(() => submit(entry.job.request)),
  vary: (entry) => attempt(() => submit({ ...entry.job.request, n: 1, seed: parseInt(randomId().slice(0, 8), 16) })),
  reuse: (entry, output) => reuse({ ...settingsOf(entry.job, output), picture: inputOf(entry.job.request) }),
  input: drawFrom,
  receipt: (_, output) => receipts.read(() => call("GET", fileOf(output), { raw: true })),
  delete: (entry) => attempt(() => remove(entry)),
});

async function submit(body) {
  const entry = await jobs.submit(body);
  announce(t("announce_queued"));
  choose(entry);
  showOnScreen($("stage"));
}

/** Hangs a job on the stage; the address names it, so that a reload finds it again. */
function choose(entry, { moves = false } = {}) {
  const id = entry?.job.id ?? null;
  history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
  stage.show(entry);
  gallery.select(id);
  jobs.select(id);
  remember(entry);
  titled(entry);
  if (!moves) return;
  showOnScreen($("stage"));
  $("stage-title").focus({ preventScroll: true });
}

function reuse(settings) {
  composer.fill({ num_inference_steps: null, negative_prompt: "", picture: null, ...settings });
  announce(t("reused"));
  showInForm();
}

/** A picture that was drawn is the next one's input. */
function drawFrom({ job }, output) {
  composer.picture.takeStored(fileOf(output), { name: settingsIn(job.request).prompt });
  showInForm();
}

function showInForm() {
  showOnScreen($("composer"));
  $("prompt").focus({ preventScroll: true });
}

async function remove(entry) {
  await jobs.remove(entry.job.id);
  announce(t("deleted"));
  choose(jobs.entries[0] ?? null);
  $("stage-title").focus({ preventScroll: true });
}

/** An error of an action is said where those of the form are. */
async function attempt(action) {
  try {
    await action();
    restore();
  } catch (error) {
    if (error instanceof Stopped) return;
    if (!(error instanceof ApiError)) throw error;
    composer.refuse(error);
    const { text, said } = explain(error);
    announce([text, said].filter(Boolean).join(" "));
  }
}

const halfway = new Set();

function changed(entry, before) {
  const { job } = entry;
  gallery.update(entry);
  if (stage.entry?.job.id !== job.id) return;
  stage.update();
  remember(entry);
  titled(entry);
  if (entry.isGone) announce(t("status_vanished"));
  else if (job.status !== before) announce(textOr(`announce_${job.status}`, null) ?? statusOf(entry));
  else if (isActive(job) && job.progress?.fraction >= HALF && !halfway.has(job.id)) {
    halfway.add(job.id);
    announce(t("announce_half"));
  }
}

function remember(entry) {
  const seed = entry?.job.outputs?.[0]?.seed ?? settingsIn(entry?.job.request ?? null).seed;
  if (seed !== undefined) composer.lastSeed = seed;
}

function titled(entry) {
  const isUnderWay = entry && isActive(entry.job) && !entry.isGone;
  document.title = isUnderWay ? `${wholePercents(entry.job.progress?.fraction ?? 0)}% · Sluice` : "Sluice";
}

/** The job that the address names, else one that is under way, else the newest. */
async function begin() {
  await jobs.load();
  const named = location.hash.slice(1);
  let entry = jobs.get(named) ?? null;
  if (entry === null && named.startsWith("job_")) entry = await jobs.find(named);
  if (stage.entry !== null) return; // somebody was faster
  choose(entry ?? jobs.entries.find(({ job }) => isActive(job)) ?? jobs.entries[0] ?? null);
}

listenToDrops({
  use: (file) => {
    composer.picture.takeFile(file);
    showOnScreen($("composer"));
  },
  read: (file) => receipts.read(() => file),
});
$("older").addEventListener("click", () => attempt(() => jobs.loadOlder()));
addEventListener("hashchange", () => {
  const entry = jobs.get(location.hash.slice(1));
  if (entry) choose(entry, { moves: true });
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) jobs.attend();
  else attempt(() => jobs.load());
});
attempt(begin);
