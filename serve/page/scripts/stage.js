import { ApiError } from "./api.js";
import { Compare } from "./compare.js";
import { $, fact, h, icon, say } from "./dom.js";
import { costOf, duration, fileSize, moment, percentage, wholePercents } from "./format.js";
import { isActive } from "./jobs.js";
import { t, textOr } from "./page_data.js";
import { takesPictures } from "./picture_tasks.js";
import { explain, sentence, warningOf } from "./problems.js";
import { fileOf, settingsIn, sizeIn } from "./settings.js";

/** Causes of an ETA that a job's place and phase tell anyway. */
const SAID_ALREADY = ["over", "jobs", "next", "queued", "encode", "denoise", "decode", "finish", "done"];

const SMALL_PX = 256; // below, pixels are shown as they are: smoothing would only blur them

/** What the job `entry` is, in a word. */
export const statusOf = ({ job, isGone }) => t(`status_${isGone ? "vanished" : job.status}`);

/** The job that is looked at: its picture, how far it is, and what can be done. */
export class Stage {
  #entry = null;
  #image = 0;
  #offered = "";
  #isLost = false;
  #compare = new Compare(() => {
    this.#offered = "";
    this.update();
  });

  /** `actions` are the things that can be done, by name: each is called with an entry and the output
   * that is shown. */
  constructor(actions) {
    this.actions = actions;
    $("picture").addEventListener("load", () => this.#fit());
    $("picture").addEventListener("error", () => this.#lose());
  }

  get entry() {
    return this.#entry;
  }

  show(entry, { image = 0 } = {}) {
    this.#entry = entry;
    this.#image = image;
    this.#offered = "";
    this.update();
  }

  /** Draws what has changed; elements that have the focus stay. */
  update() {
    if (this.#entry === null) return this.#showNothing();
    const { job } = this.#entry;
    const settings = settingsIn(job.request);
    $("stage").dataset.state = this.#entry.isGone ? "vanished" : job.status;
    say($("stage-title"), settings.prompt ?? job.id);
    say($("state"), statusOf(this.#entry));
    this.#showPicture(job, settings);
    this.#compare.show(job, this.#output, !$("picture").hidden);
    this.#showStrip(job, settings);
    this.#showProgress(job);
    this.#showProblem(job);
    this.#offer(job);
    this.#showFacts(job, settings);
  }

  get #output() {
    const { outputs } = this.#entry.job;
    return outputs?.find(({ image }) => image === this.#image) ?? null;
  }

  #showNothing() {
    $("stage").dataset.state = "empty";
    $("comparing").hidden = true;
    $("picture").hidden = $("strip").hidden = $("progress").hidden = $("problem").hidden = $("gone").hidden = true;
    say($("stage-title"), t("nothing_yet"));
    this.#tell(t("nothing_yet_hint"));
    say($("state"), "");
    $("actions").replaceChildren();
    $("facts").replaceChildren();
  }

  #showPicture(job, settings) {
    const output = this.#output;
    const size = output ?? sizeIn(settings);
    const frame = $("stage").querySelector(".frame");
    frame.style.setProperty("--ratio", size ? size.width / size.height : 1);
    this.#source(output ? fileOf(output) : this.#entry.previews.get(this.#image) ?? null);
    $("picture").alt = settings.prompt ?? "";
    $("picture").classList.toggle("preview", !output);
  }

  #source(source) {
    const picture = $("picture");
    if (picture.getAttribute("src") !== source) {
      if (source === null) picture.removeAttribute("src");
      else picture.src = source;
      this.#isLost = false;
    }
    const isOver = !isActive(this.#entry.job) || this.#entry.isGone;
    picture.hidden = source === null || this.#isLost;
    $("gone").hidden = !(picture.hidden && isOver);
    $("gone").replaceChildren(icon("problem"), source === null ? statusOf(this.#entry) : t("file_gone"));
  }

  #fit() {
    const { naturalWidth: width, naturalHeight: height } = $("picture");
    $("picture").classList.toggle("pixels", Math.max(width, height) <= SMALL_PX && !$("picture").classList.contains("preview"));
  }

  #lose() {
    if (this.#entry === null || !$("picture").hasAttribute("src")) return;
    this.#isLost = true;
    this.update();
  }

  #showStrip(job, settings) {
    const count = Math.max(job.outputs?.length ?? 0, job.progress?.images?.length ?? 0, settings.n ?? 1);
    const strip = $("strip");
    strip.hidden = count < 2;
    if (count < 2) return strip.replaceChildren();
    if (strip.children.length !== count) {
      strip.replaceChildren(...Array.from({ length: count }, (_, image) => h("li", {}, h("button", {
        type: "button", attributes: { "aria-label": t("image_number", { number: image + 1 }) },
        on: { click: () => { this.#image = image; this.#offered = ""; this.update(); } },
      }, h("img", { alt: "", hidden: true, on: { error: ({ target }) => { target.dataset.lost = target.getAttribute("src"); this.update(); } } }),
      icon("problem"), h("span", { className: "bar" })))));
    }
    for (const [image, { firstChild: button }] of [...strip.children].entries()) {
      button.setAttribute("aria-current", String(image === this.#image));
      const output = job.outputs?.find((each) => each.image === image);
      const source = output ? fileOf(output) : this.#entry.previews.get(image);
      const shown = button.firstChild;
      shown.hidden = !source || source === shown.dataset.lost;
      if (source && shown.getAttribute("src") !== source) shown.src = source;
      const { step = 0, total = 1 } = job.progress?.images?.find((each) => each.image === image) ?? {};
      button.classList.toggle("lost", Boolean(source) && shown.hidden);
      button.lastChild.style.setProperty("--done", output || !isActive(job) ? 0 : step / Math.max(total, 1));
    }
  }

  #showProgress(job) {
    const isUnderWay = isActive(job) && !this.#entry.isGone;
    const progress = $("progress"), done = job.progress?.fraction ?? 0;
    progress.hidden = !isUnderWay;
    $("stage").style.setProperty("--done", isUnderWay ? done : 0);
    if (!isUnderWay) return this.#tell(this.#entry.isGone ? t("vanished_hint") : whenWas(job));
    const where = whereIs(job, this.#image, this.#output !== null);
    progress.setAttribute("aria-valuenow", String(wholePercents(done)));
    progress.setAttribute("aria-valuetext", where);
    const ahead = typeof job.eta?.ms === "number" ? [where, t("eta", { time: duration(job.eta.ms) })] : [where];
    this.#tell(ahead.join(" · "), job.eta);
  }

  /** A text of the page's, and what an ETA's cause adds to it. */
  #tell(text, eta) {
    const about = $("about");
    const said = [text];
    if (eta?.reason && !SAID_ALREADY.includes(eta.cause)) {
      said.push(" · ", textOr(`cause_${eta.cause}`, null) ?? h("span", { textContent: eta.reason, lang: "en" }));
    }
    if (about.textContent !== said.map((each) => each.textContent ?? each).join("")) about.replaceChildren(...said);
  }

  #showProblem(job) {
    const { error } = job;
    const problem = $("problem");
    const isWrong = ["failed", "moderated", "expired"].includes(job.status) && Boolean(error);
    problem.hidden = !isWrong;
    if (!isWrong) return problem.replaceChildren();
    problem.replaceChildren(...sentence(job.status === "moderated" ? { text: t("safety_reason") } : explain(new ApiError(0, error))));
  }

  /** The actions that there are now; made anew only where they differ. */
  #offer(job) {
    const output = this.#output, isOver = !isActive(job) || this.#entry.isGone;
    const canKeep = job.status === "running" && (job.progress?.step ?? 0) > 0;
    const isSeen = output && !this.#isLost;
    const names = isOver
      ? [isSeen && this.#compare.offers(job, output) ? "compare" : null, output ? "vary" : null, "again", "reuse",
        isSeen && takesPictures ? "input" : null, ...(isSeen ? ["download", "receipt"] : []), job.trace_id ? "trace" : null,
        this.#entry.isGone ? null : "delete"]
      : ["keep", "cancel", "reuse"];
    const key = [job.id, this.#image, job.pending_action, canKeep, ...names].join();
    if (key === this.#offered) return;
    this.#offered = key;
    const had = $("actions").contains(document.activeElement) ? document.activeElement.dataset.action : null;
    $("actions").replaceChildren(...names.filter((name) => name !== null).map((name) => this.#button(name, job, output, canKeep)));
    if (had === null) return;
    const next = $("actions").querySelector(`[data-action="${had}"]:not(:disabled)`) ?? $("stage-title");
    next.focus({ preventScroll: true });
  }

  #button(name, job, output, canKeep) {
    const icons = { keep: "check", cancel: "stop", reuse: "settings", input: "picture" };
    const dataset = { "data-action": name };
    if (name === "trace") {
      return h("a", { className: "button", href: `v1/traces/${encodeURIComponent(job.trace_id)}`, attributes: dataset }, icon(name), t(`action_${name}`));
    }
    if (name === "download") {
      const extension = /^(png|jpeg|webp)$/.test(output.output_format) ? output.output_format : "png";
      return h("a", { className: "button", href: fileOf(output), download: `${job.id}-${output.image}.${extension}`, attributes: dataset }, icon(name), t(`action_${name}`));
    }
    const made = h("button", { type: "button", className: name === "keep" || name === "vary" ? "button strong" : "button", attributes: dataset },
      icon(icons[name] ?? name), t(`action_${name}`));
    if (name === "keep") made.title = t("keep_means");
    if (name === "compare") made.setAttribute("aria-pressed", String(this.#compare.isOn));
    made.disabled = (name === "keep" && !canKeep) || (["keep", "cancel"].includes(name) && Boolean(job.pending_action));
    made.addEventListener("click", () => {
      if (name === "delete") this.#deleteAfterAll(made);
      else if (name === "compare") this.#compare.toggle();
      else this.actions[name](this.#entry, output);
    });
    return made;
  }

  /** The first press asks, the second does it; to look away is to say no. */
  #deleteAfterAll(button) {
    if (button.classList.contains("sure")) return this.actions.delete(this.#entry);
    button.classList.add("sure");
    button.lastChild.textContent = t("action_delete_sure");
    const calm = () => {
      button.classList.remove("sure");
      button.lastChild.textContent = t("action_delete");
    };
    button.addEventListener("blur", calm, { once: true });
    return null;
  }

  #showFacts(job, settings) {
    const output = this.#output, size = output ?? sizeIn(settings);
    const { usage, warnings } = job;
    const facts = [
      size && [t("fact_size"), `${size.width} × ${size.height}`],
      [t("fact_steps"), output?.steps ?? job.request?.num_inference_steps],
      [t("fact_seed"), output?.seed ?? settings.seed],
      settings.quality && [t("fact_quality"), textOr(`quality_${settings.quality}`, "quality_medium")],
      typeof job.request?.strength === "number" && [t("fact_strength"), percentage(job.request.strength)],
      [t("fact_negative"), settings.negative_prompt],
      [t("fact_model"), job.model],
      usage && [t("fact_cost"), costOf(usage)],
      output?.num_bytes && [t("fact_file"), `${output.output_format.toUpperCase()}, ${fileSize(output.num_bytes)}`],
      output?.expires_at && keeping(output.expires_at, this.#isLost),
      ...(warnings ?? []).map((warning) => [t("fact_warnings"), warningOf(warning)]),
    ].filter((each) => each && each[1] !== undefined && each[1] !== null && each[1] !== "" && each[1] !== 0);
    const key = JSON.stringify(facts.map(([name, value]) => [name, value.textContent ?? value]));
    if ($("facts").dataset.key === key) return;
    $("facts").dataset.key = key;
    $("facts").replaceChildren(...facts.map(([name, value]) => fact(name, value instanceof Node ? value : String(value), name === t("fact_warnings") ? "wide" : "")));
  }
}

/** Where in its life a job that is not over is: as a whole, which the bar shows, and of several
 * images the one that is looked at; `isDrawn` once that is there. */
function whereIs(job, image, isDrawn) {
  if (job.pending_action) return t(`pending_${job.pending_action}`);
  const position = job.queue?.position;
  if (job.status === "queued" && typeof position === "number") {
    return position > 0 ? t("queue_before", { count: position }) : t("queue_next");
  }
  const images = job.progress?.images ?? [];
  const { phase = "queued", step = 0, total = 0 } = images.find((each) => each.image === image) ?? job.progress ?? {};
  const is = isDrawn ? t("image_drawn") : textOr(`phase_${job.status === "queued" ? "queued" : phase}`, "status_running", { step, total });
  if (images.length < 2 || job.status === "queued") return is;
  const percent = percentage(job.progress.fraction ?? 0);
  return t("progress_of_images", { percent, number: image + 1, count: images.length, phase: is });
}

/** Until when a file is kept, or was: one that `isLost` before its time had to make room. */
function keeping(expiresAt, isLost) {
  const until = moment(expiresAt);
  if (!isLost) return [t("fact_kept"), until];
  return 1000 * expiresAt < Date.now() ? [t("fact_gone"), until] : [t("fact_gone_early"), t("gone_early", { moment: until })];
}

/** When a job that is over was done, and how long it took to draw. */
function whenWas({ created_at: created, started_at: started, finished_at: finished }) {
  const at = moment(finished ?? created);
  return started && finished ? t("took", { moment: at, time: duration(1000 * (finished - started)) }) : at;
}
