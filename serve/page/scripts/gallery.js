import { $, h, icon, say } from "./dom.js";
import { isActive } from "./jobs.js";
import { t } from "./page_data.js";
import { takesPictures } from "./picture_tasks.js";
import { fileOf, settingsIn } from "./settings.js";
import { outlivesPage } from "./storage.js";
import { statusOf } from "./stage.js";

/** All jobs of this browser, the newest first; each is a button that hangs it on the stage. */
export class Gallery {
  #tiles = new Map();
  #selected = null;

  /** `choose(entry)` hangs one on the stage, `use(entry, output)` draws from its first picture. */
  constructor(jobs, { choose, use }) {
    this.jobs = jobs;
    this.choose = choose;
    this.use = use;
    $("gallery-note").hidden = outlivesPage;
  }

  select(id) {
    this.#selected = id;
    for (const [each, tile] of this.#tiles) tile.firstChild.setAttribute("aria-current", String(each === id));
  }

  /** Some jobs came or went. */
  list() {
    const entries = this.jobs.entries;
    const known = new Set(entries.map(({ job }) => job.id));
    for (const id of this.#tiles.keys()) if (!known.has(id)) this.#tiles.delete(id);
    const tiles = entries.map((entry) => {
      if (!this.#tiles.has(entry.job.id)) this.#tiles.set(entry.job.id, this.#tile(entry));
      return this.#tiles.get(entry.job.id);
    });
    const shown = $("tiles");
    shown.removeAttribute("aria-busy");
    for (const child of [...shown.children]) if (!tiles.includes(child)) child.remove();
    for (const [place, tile] of tiles.entries()) {
      if (shown.children[place] !== tile) shown.insertBefore(tile, shown.children[place] ?? null);
    }
    $("gallery-empty").hidden = entries.length > 0;
    $("older").hidden = !this.jobs.hasOlder;
  }

  update(entry) {
    const tile = this.#tiles.get(entry?.job.id);
    if (tile) this.#draw(tile, entry);
  }

  #tile(entry) {
    const { id } = entry.job;
    const tile = h("li", { className: "tile" }, h("button", {
      type: "button", className: "open", attributes: { "aria-current": String(id === this.#selected) }, on: { click: () => this.choose(this.jobs.get(id)) },
    }, h("span", { className: "thumb" }, h("img", { alt: "", loading: "lazy", decoding: "async", hidden: true }), h("span", { className: "bar" })),
    h("span", { className: "caption" })), h("button", {
      type: "button", className: "square use", title: t("action_input"), hidden: true,
      on: { click: () => this.use(this.jobs.get(id), this.jobs.get(id).job.outputs[0]) },
    }, icon("picture")));
    const image = tile.querySelector("img");
    image.addEventListener("load", () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 256));
    image.addEventListener("error", () => {
      image.dataset.lost = image.getAttribute("src");
      this.update(this.jobs.get(id));
    });
    this.#draw(tile, entry);
    return tile;
  }

  #draw(tile, entry) {
    const { job, previews, isGone } = entry;
    const { prompt = job.id } = settingsIn(job.request);
    const isUnderWay = isActive(job) && !isGone;
    const [button, use] = tile.children, image = tile.querySelector("img");
    const named = job.outputs?.length ? fileOf(job.outputs[0]) : previews.get(0) ?? null;
    const source = named === image.dataset.lost ? null : named;
    tile.dataset.state = isGone ? "vanished" : job.status;
    image.hidden = source === null;
    if (source !== null && image.getAttribute("src") !== source) image.src = source;
    button.setAttribute("aria-label", t("tile", { prompt, status: statusOf(entry) }));
    use.setAttribute("aria-label", t("tile_input", { prompt }));
    use.hidden = !takesPictures || isUnderWay || source === null || !job.outputs?.length;
    tile.querySelector(".bar").style.setProperty("--done", isUnderWay ? job.progress?.fraction ?? 0 : 0);
    say(tile.querySelector(".caption"), prompt);
    const says = named !== null && !isUnderWay ? t("gone") : statusOf(entry);
    this.#mark(tile, source === null ? (isUnderWay ? "wait" : "problem") : null, says, job.outputs?.length ?? 0);
  }

  /** What stands in place of a picture that is not there, and how many more there are. */
  #mark(tile, name, status, count) {
    const key = `${name} ${status} ${count}`;
    if (tile.dataset.mark === key) return;
    tile.dataset.mark = key;
    for (const old of tile.querySelectorAll(".mark, .count")) old.remove();
    const thumb = tile.querySelector(".thumb");
    if (name) thumb.append(h("span", { className: "mark" }, icon(name), status));
    if (count > 1) thumb.append(h("span", { className: "count", textContent: String(count) }));
  }
}
