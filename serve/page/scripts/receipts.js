import { ApiError, call } from "./api.js";
import { patiently } from "./connection.js";
import { $, fact, h, icon } from "./dom.js";
import { t } from "./page_data.js";
import { explain, sentence } from "./problems.js";
import { settingsIn } from "./settings.js";

/** Reads the receipt of a file, dropped, chosen or drawn here, and shows it in a dialog. */
export class Receipts {
  #reading = 0;

  /** `use(settings)` takes over what a receipt says, `draw(request)` draws it again. */
  constructor({ use, draw }) {
    this.use = use;
    this.draw = draw;
    $("open-receipt").addEventListener("click", () => $("receipt-file").click());
    $("receipt-file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.read(() => target.files[0]);
      target.value = "";
    });
    $("close-receipt").addEventListener("click", () => $("receipt").close());
    $("receipt").addEventListener("click", (event) => {
      if (event.target === $("receipt")) $("receipt").close(); // the backdrop
    });
  }

  /** Shows the receipt of the Blob that `get` gives, or promises. */
  async read(get) {
    const reading = this.#reading += 1;
    $("receipt-body").replaceChildren(h("p", { className: "skeleton", textContent: t("receipt_reading"), attributes: { role: "status" } }));
    if (!$("receipt").open) $("receipt").showModal();
    let shown;
    try {
      const file = await patiently(get);
      const headers = { "content-type": file.type || "application/octet-stream" };
      shown = this.#receipt(await patiently(() => call("POST", "v1/receipts/read", { body: file, headers })));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const problem = error.code === "invalid_value" ? { text: t("error_not_a_receipt") } : explain(error);
      shown = [h("p", { className: "verdict bad", attributes: { role: "alert" } }, ...sentence(problem))];
    }
    if (reading === this.#reading) $("receipt-body").replaceChildren(...shown);
  }

  #receipt(answer) {
    const { request, reproducible } = answer;
    const settings = settingsIn(request);
    const differences = Array.isArray(answer.differences) ? answer.differences.map(differing) : [];
    const isSame = reproducible === true;
    const facts = [
      [t("receipt_prompt"), settings.prompt], [t("fact_size"), settings.size], [t("fact_seed"), settings.seed],
      [t("fact_steps"), plain(request?.num_inference_steps)], [t("receipt_steps_run"), plain(answer.steps)],
      [t("fact_negative"), settings.negative_prompt], [t("fact_model"), plain(answer.model)],
      [t("receipt_weights"), plain(answer.weights)], [t("receipt_versions"), pairs(answer.versions)],
    ].filter(([, value]) => value !== undefined && value !== "");
    return [
      h("div", { className: `verdict ${isSame ? "good" : "bad"}`, attributes: { role: "status" } }, icon(isSame ? "check" : "problem"),
        h("div", {}, h("p", { textContent: t(isSame ? "receipt_same" : "receipt_differs") }),
          ...(isSame ? [] : [h("ul", { lang: "en" }, ...differences.map((each) => h("li", { textContent: each })))]))),
      h("dl", { className: "facts" }, ...facts.map(([name, value]) => fact(name, String(value)))),
      ...(settings.prompt === undefined ? [] : [h("div", { className: "actions" },
        this.#button("primary", t("receipt_draw"), () => this.draw(request)),
        this.#button("button", t("receipt_use"), () => this.use(settings)))]),
    ];
  }

  #button(className, textContent, act) {
    const close = () => $("receipt").close();
    return h("button", { type: "button", className, textContent, on: { click: () => { close(); act(); } } });
  }
}

/** Text of what another server's file may say: plain values, lists and pairs of them, else nothing. */
function plain(value) {
  if (["string", "number", "boolean"].includes(typeof value)) return String(value);
  if (Array.isArray(value)) return value.map(plain).filter(Boolean).join(", ");
  return pairs(value);
}

/** One thing that differs, as the API tells it. */
function differing(difference) {
  const { what, part, file, here } = difference ?? {};
  if (typeof what !== "string") return plain(difference);
  return t("receipt_difference", {
    what: typeof part === "string" ? `${part}, ${what}` : what, file: plain(file) || t("unknown"), here: plain(here) || t("unknown"),
  });
}

function pairs(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return typeof value === "string" ? value : "";
  return Object.entries(value).map(([name, of]) => [name, plain(of)]).filter(([, of]) => of).map((pair) => pair.join(" ")).join(", ");
}
