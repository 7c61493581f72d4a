import { $, say } from "./dom.js";
import { percentage } from "./format.js";
import { t } from "./page_data.js";

const LONGER_PX = 1024; // of the canvas that is painted on: the model's own grain is coarser
const STRIPE_PX = 12; // seen on any picture, whatever its colours
const STEPS = 32; // of the arrow keys, along the longer side
const OPAQUE = 127;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** A mask on a picture: what is painted is drawn anew. Kept as strokes, so that each can be undone.
 *
 * By keyboard there is a rectangle, which arrow keys move, with Shift resize, and Enter paints. */
export class MaskPainter {
  #canvas = $("mask");
  #context = this.#canvas.getContext("2d", { willReadFrequently: true });
  #picture = null;
  #strokes = [];
  #stroke = null;
  #box = null;
  #share = 0;
  #stripes = null;

  /** `changed()` is called after each stroke. */
  constructor(changed) {
    this.changed = changed;
    const canvas = this.#canvas;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.#release());
    canvas.addEventListener("pointerleave", () => { $("brush").hidden = true; });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#showBox());
    $("mask-all").addEventListener("click", () => this.#add({ all: true, erases: false }));
    $("mask-clear").addEventListener("click", () => {
      this.#add({ all: true, erases: true });
      this.#canvas.focus(); // the button can do no more
    });
    $("mask-undo").addEventListener("click", () => this.#undo());
  }

  /** Whether nothing is marked. */
  get isEmpty() {
    return this.#share === 0;
  }

  /** The canvas, opaque where the mask is; of the picture's ratio. */
  get canvas() {
    return this.#canvas;
  }

  begin(picture) {
    this.#picture = picture;
    this.#strokes = [];
    const { width, height } = picture, scale = LONGER_PX / Math.max(width, height);
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#box = { x: Math.round(width / 4), y: Math.round(height / 4), width: Math.round(width / 2), height: Math.round(height / 2) };
    this.redraw();
  }

  /** Begins with a mask that was sent before: white is marked. */
  load(image) {
    const { width, height } = this.#canvas;
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
    context.putImageData(pixels, 0, 0);
    this.#strokes = [{ image: canvas }];
    this.redraw();
  }

  /** All strokes again, in the colours of the moment. */
  redraw() {
    this.#stripes = this.#context.createPattern(stripesIn(getComputedStyle(this.#canvas).color), "repeat");
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    for (const stroke of this.#strokes) this.#paint(stroke);
    this.#tell();
  }

  /** As a PNG of the picture's own size, white where it is to be drawn anew. */
  async png() {
    const { width, height } = this.#picture;
    const white = new OffscreenCanvas(this.#canvas.width, this.#canvas.height), ink = white.getContext("2d");
    ink.drawImage(this.#canvas, 0, 0);
    ink.globalCompositeOperation = "source-in";
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, white.width, white.height);
    const whole = new OffscreenCanvas(width, height), context = whole.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(white, 0, 0, width, height);
    return whole.convertToBlob({ type: "image/png" });
  }

  get #erases() {
    return $("easel").querySelector('input[name="brush-mode"]:checked').value === "erase";
  }

  /** Of the brush, in pixels of the picture: a share of its shorter side. */
  get #radius() {
    return (Number($("brush-size").value) / 200) * Math.min(this.#picture.width, this.#picture.height);
  }

  #add(stroke) {
    this.#strokes.push({ erases: this.#erases, ...stroke });
    this.#paint(this.#strokes.at(-1));
    this.#tell();
    this.changed();
  }

  #undo() {
    if (this.#strokes.pop() === undefined) return;
    this.redraw();
    this.changed();
    if ($("mask-undo").disabled) this.#canvas.focus();
  }

  #paint({ erases, all, box, image, points, radius }) {
    const context = this.#context, scale = this.#canvas.width / this.#picture.width;
    context.save();
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.fillStyle = context.strokeStyle = this.#stripes;
    if (image) context.drawImage(image, 0, 0);
    else if (all) context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    else if (box) context.fillRect(box.x * scale, box.y * scale, box.width * scale, box.height * scale);
    else {
      context.lineWidth = 2 * radius * scale;
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      context.moveTo(points[0].x * scale, points[0].y * scale);
      for (const { x, y } of points) context.lineTo(x * scale, y * scale + 0.01); // a dot is a line, too
      context.stroke();
    }
    context.restore();
  }

  #tell() {
    const { data } = this.#context.getImageData(0, 0, this.#canvas.width, this.#canvas.height);
    let count = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] > OPAQUE) count += 1;
    this.#share = count / (data.length / 4);
    const isLittle = count > 0 && this.#share < 0.01;
    say($("mask-status"), count === 0 ? t("mask_empty") : t("mask_share", { share: isLittle ? `< ${percentage(0.01)}` : percentage(this.#share) }));
    $("mask-undo").disabled = this.#strokes.length === 0;
    $("mask-clear").disabled = this.isEmpty;
  }

  // --- by pointer

  #at({ clientX, clientY }) {
    const { left, top, width } = this.#canvas.getBoundingClientRect(), scale = this.#picture.width / width;
    return { x: (clientX - left) * scale, y: (clientY - top) * scale };
  }

  #press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#stroke = { points: [this.#at(event)], radius: this.#radius, erases: this.#erases };
    this.#paint(this.#stroke);
  }

  #move(event) {
    this.#showBrush(event);
    if (this.#stroke === null) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.#stroke.points.push(this.#at(each));
    this.#paint({ ...this.#stroke, points: this.#stroke.points.slice(-8) });
  }

  #release() {
    const stroke = this.#stroke;
    this.#stroke = null;
    if (stroke === null) return;
    this.#strokes.push(stroke);
    this.redraw();
    this.changed();
  }

  /** A ring where the brush is: of the size that it paints. */
  #showBrush(event) {
    const brush = $("brush"), { x, y } = this.#at(event), { width, height } = this.#picture;
    brush.hidden = event.pointerType === "touch";
    brush.classList.toggle("erases", this.#erases);
    for (const [name, share] of [["left", x / width], ["top", y / height], ["width", (2 * this.#radius) / width]]) {
      brush.style.setProperty(name, `${100 * share}%`);
    }
  }

  // --- by keyboard

  #key(event) {
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.#undo();
    else if (event.key === "Enter" || event.key === " ") this.#add({ box: { ...this.#box } });
    else if (event.key in ARROWS) this.#nudge(ARROWS[event.key], event.shiftKey);
    else return;
    event.preventDefault();
  }

  #nudge([right, down], isSize) {
    const { width, height } = this.#picture, box = this.#box;
    const step = Math.max(1, Math.round(Math.max(width, height) / STEPS));
    const within = (value, least, most) => Math.max(least, Math.min(most, value));
    if (isSize) {
      box.width = within(box.width + right * step, Math.min(step, width), width - box.x);
      box.height = within(box.height + down * step, Math.min(step, height), height - box.y);
    } else {
      box.x = within(box.x + right * step, 0, width - box.width);
      box.y = within(box.y + down * step, 0, height - box.height);
    }
    this.#showBox();
    say($("mask-box-said"), t("mask_box", box));
  }

  #showBox() {
    const { width, height } = this.#picture, box = this.#box, shown = $("mask-box");
    for (const [name, share] of [["left", box.x / width], ["top", box.y / height], ["width", box.width / width], ["height", box.height / height]]) {
      shown.style.setProperty(name, `${100 * share}%`);
    }
  }
}

/** A tile of diagonal stripes, in a colour and white. */
function stripesIn(colour) {
  const side = 2 * STRIPE_PX, tile = new OffscreenCanvas(side, side), context = tile.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, side, side);
  context.fillStyle = colour;
  for (const [left, right] of [[-STRIPE_PX, 0], [STRIPE_PX, side]]) {
    context.beginPath();
    context.moveTo(left, side);
    context.lineTo(right, side);
    context.lineTo(right + side, 0);
    context.lineTo(left + side, 0);
    context.fill();
  }
  return tile;
}
