// What the server put into the page: its texts, the model's card, and the shapes on offer.
const pageData = JSON.parse(document.getElementById("data").textContent);

export const model = pageData.model;
export const shapes = pageData.shapes;
export const locale = pageData.locale;

const plurals = new Intl.PluralRules(locale);

/** The text of a key, with `{name}` filled in; of one that counts, the form for `count`. */
export function t(key, values = {}) {
  const text = pageData.texts[key] ?? pageData.texts[`${key}_${plurals.select(values.count)}`];
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The text of a key that a server's word makes, or of `otherwise`; null if there is neither. */
export function textOr(key, otherwise, values = {}) {
  if (Object.hasOwn(pageData.texts, key)) return t(key, values);
  return otherwise === null ? null : t(otherwise, values);
}
