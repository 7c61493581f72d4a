// Errors and warnings in the page's language, by their codes and fields; the server's own words only
// where the table of texts has none.
import { h, icon } from "./dom.js";
import { duration } from "./format.js";
import { model, textOr } from "./page_data.js";

/** What an error means: `text` in the page's language, and `said`, what the server said of it where
 * that tells more. */
export function explain({ code, param, message, retryAfterMs }) {
  const values = { ...model.limits, time: duration(retryAfterMs ?? 1000) };
  const text = textOr(`error_${code}_${param}`, null, values) ?? textOr(`error_${code}`, null, values);
  if (text !== null) return { text, said: "" };
  return { text: textOr(`refused_${code}`, "refused_otherwise", values), said: String(message ?? "") };
}

/** That as the children of an element. */
export function sentence({ text, said }) {
  return [icon("problem"), h("span", {}, text, ...(said ? [" ", h("span", { textContent: said, className: "said", lang: "en" })] : []))];
}

/** A warning of the server's, which begins with a field and what became of it: a text, or an element
 * with its own words. */
export function warningOf(warning) {
  if (/^size: used; the image is stretched\b/.test(warning)) return textOr("warning_stretched", "refused_otherwise");
  const [begins, field, not] = /^(\w+): (not )?used\b/.exec(warning) ?? [];
  const text = begins === undefined ? null : textOr(`warning_${field}_${not ? "unused" : "used"}`, null);
  return text ?? h("span", { textContent: warning, lang: "en" });
}
