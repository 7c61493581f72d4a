// What is wrong, beside the field that is at fault: fields name in `data-param` what the API calls them.
import { $ } from "./dom.js";
import { sentence } from "./problems.js";

/** What is wrong with a field, before the server is asked. */
export class Incomplete extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

/** The fields of a form, and what is said of them. */
export class FieldMarks {
  #form;

  constructor(form) {
    this.#form = form;
  }

  /** Whether there is such a field to be marked. */
  mark(param, problem) {
    const field = this.#fieldOf(param);
    if (!field || field.hidden) return false;
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

  /** Marks it, or says it where no field is meant. */
  blame(param, problem) {
    const isMarked = this.mark(param, problem);
    if (!isMarked) $("refusal").replaceChildren(...sentence(problem));
    return isMarked;
  }

  focus(param) {
    const field = this.#fieldOf(param);
    const isSeen = (element) => element.checkVisibility();
    const written = [...field.querySelectorAll("input:not([type=radio]), textarea")].filter(isSeen);
    const input = written.find(({ value }) => value === "") ?? written[0] ?? [...field.querySelectorAll("input:checked, button")].find(isSeen);
    input?.focus();
  }

  clear() {
    for (const field of this.#form.querySelectorAll(".wrong")) field.classList.remove("wrong");
    for (const marked of this.#form.querySelectorAll("[aria-invalid]")) marked.removeAttribute("aria-invalid");
    for (const error of this.#form.querySelectorAll(".error, .refusal")) error.replaceChildren();
  }

  #fieldOf(param) {
    return param === null ? null : this.#form.querySelector(`[data-param~="${CSS.escape(param)}"]`);
  }
}
