import { $ } from "./dom.js";
import { framed, NO_BORDER } from "./frame.js";
import { inputOf } from "./settings.js";

const NEAR = 0.05; // shares by which ratios differ where sizes are of a grid

/** Before and after: the picture that a job drew from, laid over what it drew as far as a slider says. */
export class Compare {
  #isOn = false;
  #lost = null;

  /** `changed()` is called when it goes on or off, or cannot be. */
  constructor(changed) {
    this.changed = changed;
    $("compare").addEventListener("input", () => this.#cut());
    $("compare").addEventListener("keydown", ({ key }) => {
      if (key !== "Escape") return;
      this.toggle();
      $("actions").querySelector('[data-action="compare"]').focus({ preventScroll: true });
    });
    $("before").addEventListener("load", () => this.#arrange());
    $("before").addEventListener("error", () => {
      this.#lost = $("before").getAttribute("src");
      this.changed();
    });
  }

  get isOn() {
    return this.#isOn;
  }

  toggle() {
    this.#isOn = !this.#isOn;
    this.changed();
    if (this.#isOn) $("compare").focus({ preventScroll: true });
  }

  /** Whether there is something to compare `output` with. */
  offers(job, output) {
    const path = inputOf(job.request)?.path;
    return Boolean(output && path && path !== this.#lost);
  }

  /** Lays it over the picture, or takes it away. */
  show(job, output, isSeen) {
    const isShown = this.#isOn && isSeen && this.offers(job, output);
    $("comparing").hidden = !isShown;
    if (!isShown) return;
    const { path } = inputOf(job.request);
    this.request = job.request;
    this.output = output;
    if ($("before").getAttribute("src") !== path) $("before").src = path;
    else this.#arrange();
    this.#cut();
  }

  #cut() {
    $("comparing").style.setProperty("--cut", $("compare").valueAsNumber / 100);
  }

  /** Where the picture lies in what was drawn: inside of what was added around it. */
  #arrange() {
    const before = $("before"), size = { width: before.naturalWidth, height: before.naturalHeight };
    if (!size.width || !this.request) return;
    const border = { ...NO_BORDER, ...this.request.outpaint }, whole = framed(size, border);
    const places = { left: border.left / whole.width, top: border.top / whole.height, width: size.width / whole.width, height: size.height / whole.height };
    for (const [name, share] of Object.entries(places)) before.style.setProperty(name, `${100 * share}%`);
    const ratio = (whole.width / whole.height) / (this.output.width / this.output.height);
    const isStretched = "strength" in this.request || Math.abs(ratio - 1) < NEAR;
    before.style.setProperty("object-fit", isStretched ? "fill" : "contain");
    before.classList.toggle("pixels", Math.max(size.width, size.height) <= 256);
  }
}
