import { $, say } from "./dom.js";
import { model, t } from "./page_data.js";

export const SIDES = ["left", "top", "right", "bottom"];
const ALONG = { left: "width", right: "width", top: "height", bottom: "height" };
const ROOM = 0.3; // around the picture, as shares of its longer side: whereto edges are dragged

export const NO_BORDER = Object.freeze({ left: 0, top: 0, right: 0, bottom: 0 });

/** What a border makes of a picture's size. */
export const framed = ({ width, height }, { left, top, right, bottom }) => (
  { width: width + left + right, height: height + top + bottom });

/** `wanted` pixels on a side, so that the whole is a multiple of the model's grid and within its
 * bounds; nothing stays nothing. */
export function snapped(side, wanted, picture, border) {
  const { side_multiple: grid, max_side: most, max_pixels: area } = model.limits;
  if (!(wanted > 0)) return 0;
  const whole = framed(picture, { ...border, [side]: 0 });
  const besides = whole[ALONG[side]], across = whole[ALONG[side] === "width" ? "height" : "width"];
  const bound = Math.floor(Math.min(most, area / across) / grid) * grid;
  const total = Math.min(Math.round((besides + wanted) / grid) * grid, bound);
  return Math.max(0, total - besides);
}

/** The frame around the picture on the easel: its edges are dragged, or written as numbers. */
export class Frame {
  #picture = null;
  #border = NO_BORDER;
  #scale = 1;

  /** `changed()` is called when an edge has come to rest. */
  constructor(changed) {
    this.changed = changed;
    for (const side of SIDES) {
      $(`border-${side}`).addEventListener("input", ({ target }) => this.#set(side, Math.max(0, Math.round(target.valueAsNumber || 0))));
      $(`border-${side}`).addEventListener("change", () => this.#rest(side));
      this.#listenTo($("frame").querySelector(`[data-side="${side}"]`), side);
    }
    $("no-border").addEventListener("click", () => {
      this.border = NO_BORDER;
      $(`border-${SIDES[0]}`).focus(); // the button can do no more
      this.changed();
    });
    new ResizeObserver(() => this.arrange()).observe($("bench"));
  }

  get border() {
    return this.#border;
  }

  set border(border) {
    this.#border = { ...NO_BORDER, ...border };
    this.arrange();
  }

  get isEmpty() {
    return SIDES.every((side) => this.#border[side] === 0);
  }

  begin(picture) {
    this.#picture = picture;
    this.border = NO_BORDER;
  }

  /** Puts picture and frame on the bench, as large as they fit. */
  arrange() {
    const { clientWidth, clientHeight } = $("bench");
    if (this.#picture === null || clientWidth === 0) return;
    const whole = framed(this.#picture, this.#border);
    const room = $("bench").dataset.tool === "frame" ? ROOM * Math.max(this.#picture.width, this.#picture.height) : 0;
    this.#scale = Math.min((clientWidth - 32) / (whole.width + room), (clientHeight - 32) / (whole.height + room));
    const left = (clientWidth - whole.width * this.#scale) / 2 + this.#border.left * this.#scale;
    const top = (clientHeight - whole.height * this.#scale) / 2 + this.#border.top * this.#scale;
    this.#place($("sheet"), { left, top, ...this.#picture });
    this.#show();
  }

  #place(element, { left, top, width, height }) {
    const box = { left, top, width: width * this.#scale, height: height * this.#scale };
    for (const [name, value] of Object.entries(box)) element.style.setProperty(name, `${value}px`);
  }

  #show() {
    const { left, top } = this.#border;
    const whole = framed(this.#picture, this.#border);
    const sheet = $("sheet");
    this.#place($("frame"), { left: sheet.offsetLeft - left * this.#scale, top: sheet.offsetTop - top * this.#scale, ...whole });
    for (const side of SIDES) if ($(`border-${side}`) !== document.activeElement) $(`border-${side}`).value = this.#border[side];
    $("no-border").disabled = this.isEmpty;
    say($("frame-size"), t("frame_size", whole));
  }

  #set(side, pixels) {
    this.#border = { ...this.#border, [side]: pixels };
    this.#show();
  }

  #rest(side) {
    this.#border = { ...this.#border, [side]: snapped(side, this.#border[side], this.#picture, this.#border) };
    $(`border-${side}`).value = this.#border[side];
    this.arrange();
    this.changed();
  }

  #listenTo(handle, side) {
    const axis = ALONG[side] === "width" ? "clientX" : "clientY", outward = side === "right" || side === "bottom" ? 1 : -1;
    let from = null;
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      from = event[axis] - outward * this.#border[side] * this.#scale;
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const wanted = (outward * (event[axis] - from)) / this.#scale;
      this.#set(side, snapped(side, wanted, this.#picture, this.#border));
    });
    const release = () => {
      if (from !== null) this.#rest(side);
      from = null;
    };
    handle.addEventListener("pointerup", release);
    handle.addEventListener("pointercancel", release);
  }
}
