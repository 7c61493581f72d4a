import { $, h, icon } from "./dom.js";
import { duration } from "./format.js";
import { t, textOr } from "./page_data.js";

/** Settings that the form has no field for, each to be left out: `taken` is called when one was. */
export class Chips {
  #values = {};

  constructor(taken) {
    this.taken = taken;
  }

  /** What is to be sent beside the form's fields. */
  get values() {
    return { ...this.#values };
  }

  show(values) {
    this.#values = { ...values };
    const names = Object.keys(this.#values);
    $("also-field").hidden = names.length === 0;
    $("also-field").dataset.param = names.join(" ");
    $("also").replaceChildren(...names.map((name) => this.#chip(name)));
  }

  #chip(name) {
    const text = textOr(`also_${name}`, null, { value: inWords(name, this.#values[name]) }) ?? name;
    return h("li", {}, h("button", {
      type: "button", className: "chip", title: t("also_leave_out"), attributes: { "aria-label": t("also_remove", { what: text }) },
      on: { click: () => this.#leaveOut(name) },
    }, text, icon("close")));
  }

  #leaveOut(name) {
    const place = Object.keys(this.#values).indexOf(name);
    delete this.#values[name];
    if (name === "negative_prompt") delete this.#values.true_cfg_scale;
    else if (name === "true_cfg_scale") delete this.#values.negative_prompt;
    this.show(this.#values);
    const left = $("also").querySelectorAll("button");
    (left[Math.min(place, left.length - 1)] ?? $("draw")).focus();
    this.taken();
  }
}

function inWords(name, value) {
  if (name === "deadline_ms") return duration(value);
  if (name === "step_cuts") return value.map((cut) => [cut].flat().join("/")).join(", ");
  if (name === "output_format") return String(value).toUpperCase();
  return name === "guidance_scale" ? Number(value).toFixed(1) : String(value);
}
