import { ApiError, call, exactNumber, isPassing } from "./api.js";
import { Chips } from "./chips.js";
import { Stopped } from "./connection.js";
import { $, h, icon, say } from "./dom.js";
import { costOf, duration } from "./format.js";
import { model, shapes, t } from "./page_data.js";
import { explain, sentence, warningOf } from "./problems.js";
import { isOffered, sizeIn } from "./settings.js";
import { keep, randomId, recall, user } from "./storage.js";

const DEBOUNCE_MS = 350, OUTLINE_PX = 17;
const AS_A_JOB = { prefer: "respond-async" };
const DRAFT = "sluice.draft";

/** What is wrong with a field, before the server is asked. */
class Incomplete extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

/** The form: reads and fills its fields, says what they would cost, marks what is wrong. */
export class Composer {
  #form = $("composer");
  #asking = null;
  #timer = null;
  #isSending = false;
  #chips = new Chips(() => this.#edited());
  #quality = "medium"; // that which is chosen, or would be if there were no steps

  /** `submit(body)` sends a job. */
  constructor(submit) {
    this.submit = submit;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.draw();
    });
    this.#form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.draw();
    });
    this.#form.addEventListener("input", () => this.#edited());
    $("seed").addEventListener("input", () => this.#lock($("seed").value !== ""));
    $("lock").addEventListener("click", () => this.#toggleLock());
    for (const sample of this.#form.querySelectorAll(".sample")) {
      sample.addEventListener("click", () => {
        this.fill({ prompt: sample.textContent });
        $("prompt").focus();
      });
    }
    $("more").addEventListener("toggle", () => $("more").open && $("more").scrollIntoView({ block: "nearest" }));
    for (const choice of this.#form.elements.quality) choice.addEventListener("change", () => this.#takeQuality(choice.value));
    for (const choice of this.#form.elements.shape) choice.addEventListener("change", () => this.#beginOwnSize());
    if (/Mac|iP/.test(navigator.platform)) say($("control"), "⌘");
    this.#drawShapes();
    this.#restore();
    this.#edited();
  }

  /** The seed that a lock keeps, if none is written: that of the last picture. */
  lastSeed = null;

  /** Takes over settings that are given; the others stay. */
  fill(settings) {
    const { prompt, negative_prompt: negative, true_cfg_scale: strength, n, quality, seed, also } = settings;
    if (prompt !== undefined) $("prompt").value = prompt;
    if (negative !== undefined) $("negative").value = negative;
    if (strength > 1) $("strength").value = strength;
    if (n !== undefined) $("n").value = n;
    if ("num_inference_steps" in settings) $("steps").value = settings.num_inference_steps ?? "";
    if (quality !== undefined) this.#quality = quality === "auto" ? "medium" : quality;
    if (also !== undefined) this.#chips.show(also);
    if (seed !== undefined) {
      $("seed").value = seed ?? "";
      this.#lock(seed !== null);
    }
    this.#fillSize(settings);
    this.#edited();
  }

  /** The body of a generation. Raises Incomplete. */
  read() {
    const prompt = $("prompt").value.trim();
    if (prompt === "") throw new Incomplete("prompt", t("prompt_missing"));
    const body = { prompt, n: this.#number("n", "n"), ...this.#size() };
    const steps = this.#number("steps", "num_inference_steps");
    if (steps === undefined) body.quality = this.#quality;
    else body.num_inference_steps = steps;
    const seed = $("seed").value.trim();
    if (seed !== "" && !/^\d{1,19}$/.test(seed)) throw new Incomplete("seed", t("seed_invalid"));
    if (seed !== "" && this.#isLocked) body.seed = exactNumber(seed);
    const negative = $("negative").value.trim();
    if (negative !== "") {
      body.negative_prompt = negative;
      body.true_cfg_scale = this.#number("strength", "true_cfg_scale");
    }
    return { ...this.#chips.values, ...body };
  }

  async draw() {
    if (this.#isSending) return;
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#clear();
    let body;
    try {
      body = this.read();
    } catch (error) {
      if (!(error instanceof Incomplete)) throw error;
      this.#mark(error.param, { text: error.message });
      this.#focus(error.param);
      return;
    }
    this.#isSending = true;
    $("draw").setAttribute("aria-disabled", "true");
    say($("draw").firstChild, t("sending"));
    try {
      await this.submit(body);
      this.#edited(); // there is one more in the queue now
    } catch (error) {
      if (error instanceof ApiError) this.refuse(error);
      else if (!(error instanceof Stopped)) throw error;
    } finally {
      this.#isSending = false;
      $("draw").removeAttribute("aria-disabled");
      say($("draw").firstChild, t("draw"));
    }
  }

  /** Says why the server refused, and marks the field that is at fault. */
  refuse(error) {
    this.#clear();
    if (this.#mark(error.param, explain(error))) this.#focus(error.param);
    else $("refusal").replaceChildren(...sentence(explain(error)));
  }

  get #isLocked() {
    return $("lock").getAttribute("aria-pressed") === "true";
  }

  #lock(on) {
    $("lock").setAttribute("aria-pressed", String(on));
    $("lock").replaceChildren(icon(on ? "lock" : "unlock"));
  }

  #toggleLock() {
    if (this.#isLocked) $("seed").value = "";
    else if ($("seed").value === "") $("seed").value = this.lastSeed ?? parseInt(randomId().slice(0, 8), 16);
    this.#lock(!this.#isLocked);
    this.#edited();
  }

  #number(id, param) {
    const field = $(id);
    if (field.validity.badInput) throw new Incomplete(param, t("number_invalid"));
    return field.value === "" ? undefined : Number(field.value);
  }

  /** Steps of one's own are no quality's: none is chosen then. To choose one is to let go of them. */
  #showQuality() {
    const isOwn = $("steps").value !== "";
    say($("own-quality"), isOwn ? t("quality_own", { steps: $("steps").value }) : "");
    for (const choice of this.#form.elements.quality) choice.checked = !isOwn && choice.value === this.#quality;
  }

  #takeQuality(quality) {
    this.#quality = quality;
    $("steps").value = "";
    this.#edited();
  }

  #size() {
    const shape = this.#form.elements.shape.value;
    if (shape !== "own") return shape.includes(":") ? { aspect_ratio: shape } : { size: shape };
    const width = this.#number("width", "size"), height = this.#number("height", "size");
    if (!width || !height) throw new Incomplete("size", t("size_missing"));
    return { size: `${width}x${height}` };
  }

  /** A size of one's own begins with the model's. */
  #beginOwnSize() {
    if (this.#form.elements.shape.value !== "own" || $("width").value || $("height").value) return;
    const { width, height } = sizeIn(model.defaults);
    $("width").value = width;
    $("height").value = height;
  }

  #fillSize(settings) {
    const wanted = settings.aspect_ratio ?? settings.size;
    const size = sizeIn(settings);
    if (wanted === "auto") this.#choose("shape", shapes[0]);
    else if (isOffered(wanted)) this.#choose("shape", wanted);
    else if (size) {
      this.#choose("shape", "own");
      $("width").value = size.width;
      $("height").value = size.height;
    }
  }

  /** Each shape as a small outline, to the scale of the largest. */
  #drawShapes() {
    const sides = shapes.map((shape) => shape.split(/[x:]/).map(Number));
    const isRatio = shapes[0].includes(":");
    const largest = Math.max(...sides.flat());
    for (const [place, shown] of [...this.#form.querySelectorAll("[data-shape]")].entries()) {
      const scale = OUTLINE_PX / (isRatio ? Math.max(...sides[place]) : largest);
      for (const [name, side] of [["--width", sides[place][0]], ["--height", sides[place][1]]]) {
        shown.style.setProperty(name, `${Math.round(side * scale)}px`);
      }
    }
  }

  #choose(name, value) {
    const choice = this.#form.querySelector(`input[name="${name}"][value="${CSS.escape(value)}"]`);
    if (choice) choice.checked = true;
  }

  // --- what it would cost

  #edited() {
    this.#showQuality();
    this.#form.querySelector(".own-size").hidden = this.#form.elements.shape.value !== "own";
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#timer = setTimeout(() => this.#estimate(), DEBOUNCE_MS);
    keep(DRAFT, JSON.stringify(this.#draft()));
  }

  async #estimate() {
    let body;
    try {
      body = this.read();
    } catch (error) {
      if (!(error instanceof Incomplete)) throw error;
      this.#clear();
      if (error.param !== "prompt") this.#mark(error.param, { text: error.message });
      return this.#forget();
    }
    const asking = new AbortController();
    this.#asking = asking;
    $("estimate").setAttribute("aria-busy", "true");
    try {
      const answer = await call("POST", "v1/images/preflight", { body: { ...body, user }, headers: AS_A_JOB, signal: asking.signal });
      this.#clear();
      this.#show(answer);
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#clear();
      this.#forget();
      if (error instanceof ApiError && !isPassing(error)) this.#blame(error);
      else if (!isPassing(error)) throw error;
    }
    $("estimate").removeAttribute("aria-busy");
  }

  #forget() {
    $("estimate").removeAttribute("aria-busy");
    say($("estimate-time"), "–");
    say($("estimate-cost"), "–");
    $("notes").replaceChildren();
  }

  #show(answer) {
    const { eta_ms: eta, queue_ms: queue, cold_start_ms: cold, cost, warnings } = answer;
    const values = { time: duration(eta ?? 0), queue: duration(queue ?? 0), cold: duration(cold ?? 0) };
    if (eta === null || eta === undefined) say($("estimate-time"), t("estimate_unknown"));
    else if (cold > 0) say($("estimate-time"), t("estimate_cold", values));
    else if (queue >= 1000) say($("estimate-time"), t("estimate_queue", values));
    else say($("estimate-time"), values.time);
    say($("estimate-cost"), costOf(cost ?? {}) || t("estimate_unknown"));
    const notes = Array.isArray(warnings) ? warnings.map(String) : [];
    $("notes").replaceChildren(...notes.map((note) => h("li", {}, warningOf(note))));
  }

  // --- what is wrong

  /** As `refuse`, while somebody is still writing: the focus stays where it is. */
  #blame(error) {
    if (!this.#mark(error.param, explain(error))) $("refusal").replaceChildren(...sentence(explain(error)));
  }

  #fieldOf(param) {
    return param === null ? null : this.#form.querySelector(`[data-param~="${CSS.escape(param)}"]`);
  }

  #mark(param, problem) {
    const field = this.#fieldOf(param);
    if (!field) return false;
    const error = field.querySelector(".error");
    error.replaceChildren(...sentence(problem));
    field.classList.add("wrong");
    for (const described of [field, ...field.querySelectorAll("input, textarea")]) {
      if ((described.getAttribute("aria-describedby") ?? "").split(" ").includes(error.id)) described.setAttribute("aria-invalid", "true");
    }
    const hidden = field.closest("details");
    if (hidden) hidden.open = true;
    return true;
  }

  #focus(param) {
    const field = this.#fieldOf(param);
    const written = [...field.querySelectorAll("input:not([type=radio]), textarea")].filter((input) => input.checkVisibility());
    const input = written.find(({ value }) => value === "") ?? written[0] ?? field.querySelector("input:checked, button");
    input?.focus();
  }

  #clear() {
    for (const field of this.#form.querySelectorAll(".wrong")) field.classList.remove("wrong");
    for (const marked of this.#form.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
    for (const error of this.#form.querySelectorAll(".error, .refusal")) error.replaceChildren();
  }

  // --- a draft outlives a reload

  #draft() {
    return {
      prompt: $("prompt").value, negative_prompt: $("negative").value, quality: this.#quality, also: this.#chips.values,
      num_inference_steps: $("steps").value, shape: this.#form.elements.shape.value,
      width: $("width").value, height: $("height").value, n: $("n").value,
      seed: this.#isLocked ? $("seed").value : null,
    };
  }

  #restore() {
    let draft;
    try {
      draft = JSON.parse(recall(DRAFT) ?? "{}");
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return; // another page's, or an older one's
    }
    const { shape, width, height, ...settings } = draft;
    if (typeof shape !== "string") return;
    this.fill(settings);
    this.#choose("shape", shape);
    $("width").value = width;
    $("height").value = height;
  }
}
