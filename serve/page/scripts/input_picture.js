import { blankPicture } from "./blank_picture.js";
import { $, announce, say } from "./dom.js";
import { Incomplete } from "./field_marks.js";
import { percentage } from "./format.js";
import { Frame, framed } from "./frame.js";
import { MaskPainter } from "./mask_painter.js";
import { t } from "./page_data.js";
import { canMark, prefixOf, takesPictures, takesStrength, waysWith } from "./picture_tasks.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];
const THUMB_PX = 240;
const USUAL_STRENGTH = { whole: 0.6, area: 1 };

/** The picture to draw from: how it came, which part of it is drawn anew, what is added around it. */
export class InputPicture {
  #chosen = null; // {image, width, height, file} of one's own, or with the `id` of a file of the server's
  #choosing = 0;
  #strengths = { ...USUAL_STRENGTH };
  #frame = new Frame(() => this.#edited());
  #painter = new MaskPainter(() => this.#edited());

  /** `changed()` is called whenever something else would be sent; `refuse(text)` says what a file
   * that was brought is not. */
  constructor({ changed, refuse }) {
    this.changed = changed;
    this.refuse = refuse;
    $("input-picture").hidden = !takesPictures;
    $("choose-picture").addEventListener("click", () => $("picture-file").click());
    $("picture-file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.takeFile(target.files[0]);
      target.value = "";
    });
    $("remove-picture").addEventListener("click", () => {
      this.remove();
      announce(t("picture_removed"));
      $("choose-picture").focus();
    });
    for (const [button, tool] of [["mark-part", "mask"], ["extend", "frame"], ["open-easel", canMark ? "mask" : null]]) {
      $(button).addEventListener("click", () => this.#openEasel(tool));
    }
    $("mark-part").disabled = $("extend").disabled = $("open-easel").disabled = !canMark;
    for (const each of ["close-easel", "done-easel"]) $(each).addEventListener("click", () => $("easel").close());
    for (const choice of document.querySelectorAll('input[name="tool"]')) choice.addEventListener("change", () => this.#take(choice.value));
    for (const choice of this.#ways) choice.addEventListener("change", () => this.#edited());
    $("picture-strength").addEventListener("input", ({ target }) => {
      this.#strengths[this.hasArea ? "area" : "whole"] = target.valueAsNumber / 100;
      this.#showStrength();
    });
  }

  get isThere() {
    return this.#chosen !== null;
  }

  /** Whether a part, or what is around, is drawn, and not the whole. */
  get hasArea() {
    return this.isThere && !(this.#painter.isEmpty && this.#frame.isEmpty);
  }

  /** How it is drawn from: by an instruction, or by a description; null where neither can be. */
  get way() {
    if (!this.isThere) return null;
    const ways = waysWith(this.hasArea), chosen = this.#ways.find(({ checked }) => checked).value;
    return ways.includes(chosen) ? chosen : ways[0] ?? null;
  }

  /** WIDTHxHEIGHT, with what is added around it; null without one. */
  get size() {
    if (!this.isThere) return null;
    const { width, height } = framed(this.#chosen, this.#frame.border);
    return `${width}x${height}`;
  }

  /** What stands before the prompt. */
  get prefix() {
    return this.isThere ? prefixOf(this.way, this.hasArea) : "";
  }

  get #ways() {
    return [...document.querySelectorAll('input[name="way"]')];
  }

  /** One of somebody's own. */
  async takeFile(file) {
    if (!TYPES.includes(file.type)) return this.refuse(t("picture_no_picture"));
    const url = URL.createObjectURL(file);
    return this.#load(url, { file, url, name: file.name || t("picture_pasted") });
  }

  /** One that lies on the server, as a job's output or input does; with what was drawn from of it. */
  async takeStored(path, { name, outpaint, mask, strength } = {}) {
    const isLoaded = await this.#load(path, { id: path.split("/").at(-1), name });
    if (!isLoaded) return;
    if (outpaint) this.#frame.border = outpaint;
    if (mask) await this.#loadMask(mask);
    if (typeof strength === "number") this.#strengths[this.hasArea ? "area" : "whole"] = strength;
    this.#ways.find(({ value }) => value === (typeof strength === "number" && !this.hasArea ? "redraw" : this.way ?? value)).checked = true;
    this.#edited();
  }

  remove() {
    this.#choosing += 1;
    if (this.#chosen?.url) URL.revokeObjectURL(this.#chosen.url);
    this.#chosen = null;
    this.#edited();
  }

  /** What is sent of it; for a preflight, where `isAsked`, blank pictures as large as one's own.
   * Raises Incomplete. */
  async fields({ isAsked = false } = {}) {
    if (!this.isThere) return {};
    const { file, id, width, height } = this.#chosen;
    if (this.way === null) throw new Incomplete("image", t(this.hasArea ? "picture_no_area" : "picture_needs_area"));
    const stand = () => blankPicture(width, height);
    const fields = { kind: "edit", image: id ?? (isAsked ? await stand() : await dataUrl(file)) };
    if (!this.#painter.isEmpty) fields.mask_image = isAsked ? await stand() : await dataUrl(await this.#painter.png());
    if (!this.#frame.isEmpty) fields.outpaint = this.#frame.border;
    if (takesStrength(this.way, this.hasArea)) fields.strength = this.#strength;
    return fields;
  }

  get #strength() {
    return this.#strengths[this.hasArea ? "area" : "whole"];
  }

  async #load(source, about) {
    const choosing = this.#choosing += 1;
    const image = new Image();
    image.src = source;
    try {
      await image.decode();
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      if (choosing === this.#choosing) this.refuse(t(about.file ? "picture_no_picture" : "error_file_not_found"));
      return false;
    }
    if (choosing !== this.#choosing) return false; // another was chosen, or it was removed
    if (this.#chosen?.url) URL.revokeObjectURL(this.#chosen.url);
    const size = { width: image.naturalWidth, height: image.naturalHeight };
    this.#chosen = { image, ...size, ...about };
    this.#strengths = { ...USUAL_STRENGTH };
    this.#painter.begin(size);
    this.#frame.begin(size);
    $("easel-picture").src = source;
    $("sheet").classList.toggle("pixels", Math.max(size.width, size.height) <= 256);
    const isByButton = document.activeElement === $("choose-picture");
    this.#edited();
    if (isByButton) $("prompt").focus(); // the button is gone
    announce(t("picture_taken"));
    return true;
  }

  async #loadMask(source) {
    const image = new Image();
    image.src = source;
    try {
      await image.decode();
    } catch (error) {
      if (!(error instanceof DOMException)) throw error;
      return; // it is no longer kept: the whole is drawn
    }
    this.#painter.load(image);
  }

  // --- what is seen of it

  #edited() {
    const ways = this.isThere ? waysWith(this.hasArea) : [];
    $("choose-picture").hidden = this.isThere;
    $("chosen").hidden = !this.isThere;
    $("ways").hidden = ways.length < 2;
    for (const choice of this.#ways) if (ways.length === 1) choice.checked = choice.value === ways[0];
    $("strength-field").hidden = !this.isThere || this.way === null || !takesStrength(this.way, this.hasArea);
    this.#showStrength();
    if (this.isThere) this.#showChosen();
    this.changed();
  }

  #showStrength() {
    const percent = Math.round(100 * this.#strength);
    $("picture-strength").value = percent;
    say($("picture-strength-said"), percentage(percent / 100));
    $("picture-strength").setAttribute("aria-valuetext", percentage(percent / 100));
    $("picture-strength").style.setProperty("--value", percent / 100);
  }

  #showChosen() {
    const { name, width, height } = this.#chosen, border = this.#frame.border;
    const whole = framed({ width, height }, border);
    say($("picture-name"), name ?? t("picture_drawn_here"));
    say($("picture-about"), this.#frame.isEmpty ? t("picture_size", { width, height }) : t("picture_extended", { width, height, to: `${whole.width} × ${whole.height}` }));
    $("mark-part").setAttribute("aria-pressed", String(!this.#painter.isEmpty));
    $("extend").setAttribute("aria-pressed", String(!this.#frame.isEmpty));
    say($("picture-hint"), canMark ? "" : t("picture_only_whole"));
    $("picture-hint").hidden = canMark;
    const thumb = $("picture-thumb"), scale = THUMB_PX / Math.max(whole.width, whole.height), context = thumb.getContext("2d");
    thumb.width = Math.max(1, Math.round(whole.width * scale));
    thumb.height = Math.max(1, Math.round(whole.height * scale));
    const box = [border.left, border.top, width, height].map((value) => value * scale);
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(this.#chosen.image, ...box);
    context.globalAlpha = 0.7;
    context.drawImage(this.#painter.canvas, ...box);
  }

  // --- the easel

  #openEasel(tool) {
    $("easel").showModal();
    document.querySelector(`input[name="tool"][value="${tool}"]`).checked = true;
    this.#take(tool);
    this.#painter.redraw();
  }

  #take(tool) {
    $("bench").dataset.tool = tool;
    $("mask-tools").hidden = tool !== "mask";
    $("frame-tools").hidden = tool !== "frame";
    this.#frame.arrange();
  }
}

/** A file as a data URL. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Incomplete("image", t("picture_unreadable")));
    reader.readAsDataURL(file);
  });
}
