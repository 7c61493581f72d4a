const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element with properties (`on` holds listeners, `attributes` the rest) and children. */
export function h(tag, { on = {}, attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function icon(name) {
  const made = document.createElementNS(SVG, "svg"), use = document.createElementNS(SVG, "use");
  made.setAttribute("class", "icon");
  made.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  made.append(use);
  return made;
}

/** Writes only what changes, so that screen readers do not hear the rest again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A name and a value of a description list. */
export const fact = (name, value, className = "") => h("div", { className },
  h("dt", { textContent: name }), h("dd", {}, value));

/** Tells screen readers, when they have finished what they are saying. */
export function announce(text) {
  $("announcer").replaceChildren(h("p", { textContent: text }));
}

export const movesLess = matchMedia("(prefers-reduced-motion: reduce)");

export function showOnScreen(element) {
  const { top, bottom } = element.getBoundingClientRect();
  if (top >= 0 && Math.min(bottom, top + 240) <= innerHeight) return;
  element.scrollIntoView({ block: "start", behavior: movesLess.matches ? "auto" : "smooth" });
}
