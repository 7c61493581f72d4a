import { ApiError, call, exactNumber, isPassing } from "./api.js";
import { Chips } from "./chips.js";
import { Stopped } from "./connection.js";
import { $, icon, say } from "./dom.js";
import { forgetEstimate, showEstimate } from "./estimate.js";
import { FieldMarks, Incomplete } from "./field_marks.js";
import { InputPicture } from "./input_picture.js";
import { model, shapes, t } from "./page_data.js";
import { explain } from "./problems.js";
import { isOffered, sizeIn } from "./settings.js";
import { keep, randomId, recall, user } from "./storage.js";

const DEBOUNCE_MS = 350, OUTLINE_PX = 17;
const AS_A_JOB = { prefer: "respond-async" };
const DRAFT = "sluice.draft";

/** The form: reads and fills its fields, says what they would cost, marks what is wrong. */
export class Composer {
  #form = $("composer");
  #asking = null;
  #timer = null;
  #marks = new FieldMarks(this.#form);
  #isSending = false;
  #chips = new Chips(() => this.#edited());
  #quality = "medium"; // that which is chosen, or would be if there were no steps

  /** The picture to draw from, if there is one. */
  picture = new InputPicture({
    changed: () => this.#edited(),
    refuse: (text) => {
      this.#stopAsking(); // its answer would take the mark away
      this.#marks.clear();
      this.#marks.mark("image", { text });
    },
  });

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
    const { prompt, negative_prompt: negative, true_cfg_scale: strength, n, quality, seed, also, picture } = settings;
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
    if (picture !== undefined) this.picture.remove(); // and its size
    this.#fillSize(settings);
    if (picture) this.#fillPicture(picture, settings);
    this.#edited();
  }

  async #fillPicture({ path, ...rest }, settings) {
    await this.picture.takeStored(path, rest);
    if (settings.size !== this.picture.size) this.#fillSize(settings);
  }

  /** The body of a generation. Raises Incomplete. */
  read() {
    const prompt = $("prompt").value.trim();
    if (prompt === "") throw new Incomplete("prompt", this.picture.way === "edit" ? t("instruction_missing") : t("prompt_missing"));
    const prefix = /^\[\w+\]/.test(prompt) ? "" : this.picture.prefix;
    const body = { prompt: prefix + prompt, n: this.#number("n", "n"), ...this.#size() };
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
    this.#stopAsking();
    this.#marks.clear();
    this.#isSending = true;
    try {
      const body = { ...this.read(), ...await this.picture.fields() };
      $("draw").setAttribute("aria-disabled", "true");
      say($("draw").firstChild, t("sending"));
      await this.submit(body);
      this.#edited(); // there is one more in the queue now
    } catch (error) {
      if (error instanceof Incomplete) this.#point(error.param, { text: error.message });
      else if (error instanceof ApiError) this.refuse(error);
      else if (!(error instanceof Stopped)) throw error;
    } finally {
      this.#isSending = false;
      $("draw").removeAttribute("aria-disabled");
      say($("draw").firstChild, t("draw"));
    }
  }

  /** Says why the server refused, and marks the field that is at fault. */
  refuse(error) {
    this.#marks.clear();
    this.#point(this.#paramOf(error), explain(error));
  }

  #point(param, problem) {
    if (this.#marks.blame(param, problem)) this.#marks.focus(param);
  }

  /** What the API says is wrong; a file that is not there can only be the picture's. */
  #paramOf({ code, param }) {
    return param ?? (code === "file_not_found" && this.picture.isThere ? "image" : null);
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
    if (shape === "auto") return { size: "auto" };
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
    if (wanted === "auto") this.#choose("shape", this.picture.isThere ? "auto" : shapes[0]);
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

  /** With a picture other words are wanted, and its own size is on offer. */
  #showPicture() {
    const { isThere, way } = this.picture, own = $("own-picture-size");
    const isInstruction = isThere && way === "edit";
    say($("prompt-label"), isInstruction ? t("instruction") : t("prompt"));
    $("prompt").placeholder = isInstruction ? t("instruction_placeholder") : t("prompt_placeholder");
    this.#form.querySelector(".samples").hidden = isThere;
    if (own.hidden !== isThere) return;
    own.hidden = !isThere;
    this.#choose("shape", isThere ? "auto" : shapes[0]);
  }

  // --- what it would cost

  #edited() {
    this.#showQuality();
    this.#showPicture();
    this.#form.querySelector(".own-size").hidden = this.#form.elements.shape.value !== "own";
    this.#stopAsking();
    this.#timer = setTimeout(() => this.#estimate(), DEBOUNCE_MS);
    keep(DRAFT, JSON.stringify(this.#draft()));
  }

  #stopAsking() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
  }

  async #estimate() {
    const asking = new AbortController();
    this.#asking = asking;
    let body;
    try {
      body = { ...this.read(), ...await this.picture.fields({ isAsked: true }) };
    } catch (error) {
      if (!(error instanceof Incomplete)) throw error;
      if (asking.signal.aborted) return undefined;
      this.#marks.clear();
      if (error.param !== "prompt") this.#marks.mark(error.param, { text: error.message });
      return forgetEstimate();
    }
    if (asking.signal.aborted) return undefined;
    $("estimate").setAttribute("aria-busy", "true");
    try {
      const answer = await call("POST", "v1/images/preflight", { body: { ...body, user }, headers: AS_A_JOB, signal: asking.signal });
      this.#marks.clear();
      showEstimate(answer);
    } catch (error) {
      if (asking.signal.aborted) return undefined;
      this.#marks.clear();
      forgetEstimate();
      // Somebody is still writing: the focus stays where it is.
      if (error instanceof ApiError && !isPassing(error)) this.#marks.blame(this.#paramOf(error), explain(error));
      else if (!isPassing(error)) throw error;
    }
    $("estimate").removeAttribute("aria-busy");
    return undefined;
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
    if (shape !== "auto") this.#choose("shape", shape); // that of a picture, which does not outlive it
    $("width").value = width;
    $("height").value = height;
  }
}
