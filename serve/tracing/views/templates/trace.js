"use strict";
// The list is complete without this: it adds opening and closing, keys, details, zoom, links drawn.
(() => {
  const $ = (id) => document.getElementById(id);
  const tree = $("tree"), sheet = $("sheet"), tip = $("tip");
  const total = Number(sheet.dataset.length);
  const svg = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // --- the tree: WAI-ARIA's keys
  const itemOf = (node) => node.closest('[role="treeitem"]');
  const parentOf = (item) => item.parentElement.closest('[role="treeitem"]');
  const partsOf = (item) => item.querySelectorAll(':scope > [role="group"] > [role="treeitem"]');
  const isOpen = (item) => item.getAttribute("aria-expanded") === "true";
  const hasParts = (item) => item.hasAttribute("aria-expanded");
  let current = tree.querySelector('[tabindex="0"]');

  const setOpen = (item, open) => {
    if (!hasParts(item)) return;
    item.setAttribute("aria-expanded", String(open));
    if (!open && item !== current && item.contains(current)) focusOn(item);
    drawJoins();
  };
  const focusOn = (item, { scroll = true } = {}) => {
    current.tabIndex = -1;
    current = item;
    item.tabIndex = 0;
    item.focus({ preventScroll: true });
    if (scroll) item.querySelector(":scope > .row").scrollIntoView({ block: "nearest" });
  };
  const reveal = (item) => {
    for (let above = parentOf(item); above; above = parentOf(above)) setOpen(above, true);
    focusOn(item);
  };
  const last = (item) => {
    const parts = isOpen(item) ? partsOf(item) : [];
    return parts.length ? last(parts[parts.length - 1]) : item;
  };
  const below = (item) => {
    if (isOpen(item) && partsOf(item).length) return partsOf(item)[0];
    for (let at = item; at; at = parentOf(at)) if (at.nextElementSibling) return at.nextElementSibling;
    return null;
  };
  const above = (item) => (item.previousElementSibling?.matches('[role="treeitem"]')
    ? last(item.previousElementSibling) : parentOf(item));
  const pin = (item) => item.classList.toggle("pinned");
  const enter = (item) => {
    const link = item.querySelector(":scope > .other a");
    if (link) link.click();
    else if (hasParts(item)) setOpen(item, !isOpen(item));
    else pin(item);
  };
  const escape = (item) => {
    if (!tip.hidden) hideTip();
    else if (item.classList.contains("pinned")) pin(item);
    else if (zoom > 1) zoomTo(1, 0);
    else if (parentOf(item)) focusOn(parentOf(item));
  };

  // --- details: beside the pointer, or below the row that has the focus
  const showTip = (item, x, y) => {
    const facts = item.querySelector(":scope > .facts");
    if (!facts || item.classList.contains("pinned")) return hideTip();
    const title = document.createElement("h3");
    title.textContent = item.querySelector(":scope > .row .name").textContent;
    tip.replaceChildren(title, facts.cloneNode(true));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const fits = y + 18 + height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${fits ? y + 18 : Math.max(8, y - height - 12)}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  const tipAtFocus = () => {
    const row = current.querySelector(":scope > .row").getBoundingClientRect();
    const took = current.querySelector(":scope > .row > .took");
    if (took) showTip(current, took.getBoundingClientRect().left, row.bottom - 10);
    else hideTip();
  };

  // --- zoom: all lanes are as much wider as `zoom`, and `pan` of the trace is left of them
  let zoom = 1, pan = 0;
  const laneBox = () => {
    const box = sheet.querySelector(".axis > span:nth-child(2)").getBoundingClientRect();
    return { left: box.right, width: sheet.getBoundingClientRect().right - box.right };
  };
  const spanOf = (item) => {
    const bar = item.querySelector(":scope > .row .bar");
    if (!bar) return null;
    const read = (name) => parseFloat(bar.getAttribute(name)) / 100;
    return bar.hasAttribute("x1") ? [read("x1"), read("x2")] : [read("x"), read("x") + read("width")];
  };
  const zoomTo = (level, left) => {
    zoom = Math.min(Math.max(level, 1), 2000);
    pan = Math.min(Math.max(left, 0), 1 - 1 / zoom);
    sheet.style.setProperty("--zoom", zoom);
    sheet.style.setProperty("--pan", pan);
    sheet.classList.toggle("zoomed", zoom > 1);
    $("zoom").textContent = `${zoom < 10 ? zoom.toFixed(1).replace(/\.0$/, "") : Math.round(zoom)}×`;
    drawAxis();
    drawJoins();
  };
  const zoomBy = (factor, at) => zoomTo(zoom * factor, at - (at - pan) / factor);
  const middle = () => {
    const span = spanOf(current);
    const focus = span ? (span[0] + span[1]) / 2 : pan + 0.5 / zoom;
    return focus >= pan && focus <= pan + 1 / zoom ? focus : pan + 0.5 / zoom;
  };
  const zoomToSpan = (item) => {
    const span = spanOf(item);
    if (span) zoomTo(0.9 / Math.max(span[1] - span[0], 1e-9), span[0] - 0.05 * (span[1] - span[0]));
  };
  const duration = (ns) => {
    for (const [size, unit] of [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]]) {
      if (ns >= 0.9995 * size) return `${(ns / size).toLocaleString("en", { maximumSignificantDigits: 6 })} ${unit}`;
    }
    return ns ? `${Math.round(ns)} ns` : "0";
  };
  const drawAxis = () => {
    const least = total / zoom / Math.max(2, Math.min(7, laneBox().width / 110));
    const power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 5, 10].map((by) => by * power).find((each) => each >= least);
    const marks = [];
    for (let n = Math.floor((pan * total) / step); n * step <= Math.min(1, pan + 1 / zoom) * total; n += 1) marks.push(n * step);
    const at = (mark) => `${(100 * mark) / total}%`;
    $("axis").replaceChildren(...marks.map((mark) => {
      const text = svg("text", { x: at(mark), y: 17 });
      text.textContent = duration(mark);
      return text;
    }));
    $("grid").replaceChildren(...marks.map((mark) => svg("line", { x1: at(mark), x2: at(mark), y1: 0, y2: "100%" })));
  };

  // --- from an attempt to the one after it
  const joins = svg("svg", { id: "joins", "aria-hidden": "true" });
  sheet.append(joins);
  const pairs = [...tree.querySelectorAll("a.after")]
    .map((link) => [$(decodeURIComponent(link.hash.slice(1))), itemOf(link)])
    .filter(([from]) => from);
  const drawJoins = () => {
    const base = sheet.getBoundingClientRect(), lane = laneBox();
    const x = (part) => lane.left - base.left + (part - pan) * zoom * lane.width;
    const y = (item) => {
      const box = item.querySelector(":scope > .row").getBoundingClientRect();
      return box.height ? box.top - base.top + box.height / 2 : null;
    };
    joins.replaceChildren(...pairs.flatMap(([from, to]) => {
      const [y0, y1] = [y(from), y(to)];
      const [x0, x1] = [x(spanOf(from)[1]), x(spanOf(to)[0])];
      const left = lane.left - base.left;
      if (y0 === null || y1 === null || Math.min(x0, x1) < left || Math.max(x0, x1) > base.width) return [];
      const bend = Math.max(x0, x1) + 7;
      const d = bend > base.width - 2 ? `M${x0} ${y0}V${y1}H${x1}` : `M${x0} ${y0}H${bend}V${y1}H${x1}`;
      return [svg("path", { d })];
    }));
  };

  // --- what people do
  const keys = {
    ArrowDown: (item) => below(item) && focusOn(below(item)),
    ArrowUp: (item) => above(item) && focusOn(above(item)),
    ArrowRight: (item) => (hasParts(item) && !isOpen(item) ? setOpen(item, true)
      : partsOf(item).length && focusOn(partsOf(item)[0])),
    ArrowLeft: (item) => (hasParts(item) && isOpen(item) ? setOpen(item, false)
      : parentOf(item) && focusOn(parentOf(item))),
    Home: () => focusOn(tree.querySelector('[role="treeitem"]')),
    End: () => focusOn(last(tree.lastElementChild)),
    Enter: enter,
    " ": (item) => { hideTip(); pin(item); drawJoins(); },
    Escape: escape,
    "*": (item) => [...item.parentElement.children].forEach((each) => setOpen(each, true)),
    z: zoomToSpan,
  };
  const anywhere = {
    "+": () => zoomBy(2, middle()), "=": () => zoomBy(2, middle()),
    "-": () => zoomBy(1 / 2, middle()), "0": () => zoomTo(1, 0),
  };
  const act = (event, action, ...given) => { event.preventDefault(); action(...given); };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (anywhere[key]) return act(event, anywhere[key]);
    const item = event.target.closest('[role="treeitem"]');
    if (!item || event.target.matches("a")) return;
    if (event.shiftKey && (key === "ArrowLeft" || key === "ArrowRight")) {
      return act(event, zoomTo, zoom, pan + (key === "ArrowLeft" ? -0.2 : 0.2) / zoom);
    }
    if (keys[key]) {
      act(event, keys[key], item);
      if (key.startsWith("Arrow") || key === "Home" || key === "End") tipAtFocus();
    }
  });
  tree.addEventListener("click", (event) => {
    const item = itemOf(event.target), link = event.target.closest("a");
    if (!item || event.target.closest(".facts")) return;
    if (link?.matches(".after")) {
      event.preventDefault();
      const target = $(decodeURIComponent(link.hash.slice(1)));
      if (target) reveal(target);
    } else if (!link) {
      focusOn(item, { scroll: false });
      if (event.target.closest(".lane") || !hasParts(item)) keys[" "](item);
      else setOpen(item, !isOpen(item));
    }
  });
  tree.addEventListener("dblclick", (event) => event.target.closest(".lane") && zoomToSpan(itemOf(event.target)));
  tree.addEventListener("pointermove", (event) => {
    const row = event.pointerType === "mouse" && event.target.closest(".row");
    if (row) showTip(row.parentElement, event.clientX, event.clientY);
    else hideTip();
  });
  tree.addEventListener("pointerleave", hideTip);
  tree.addEventListener("focusout", hideTip);
  sheet.addEventListener("wheel", (event) => {
    const { left, width } = laneBox();
    if (event.clientX < left) return;
    if (event.ctrlKey) act(event, zoomBy, Math.exp(-event.deltaY / 200), pan + (event.clientX - left) / width / zoom);
    else if (zoom > 1 && Math.abs(event.deltaX) > Math.abs(event.deltaY)) act(event, zoomTo, zoom, pan + event.deltaX / width / zoom);
  }, { passive: false });

  const every = (open) => { for (const item of tree.querySelectorAll("[aria-expanded]")) item.setAttribute("aria-expanded", String(open)); };
  const tools = {
    in: anywhere["+"], out: anywhere["-"], fit: anywhere["0"],
    open: () => { every(true); drawJoins(); },
    close: () => { every(false); const top = tree.firstElementChild; setOpen(top, true); if (!current.checkVisibility()) focusOn(top); },
  };
  $("tools").hidden = false;
  $("tools").addEventListener("click", (event) => tools[event.target.dataset.do]?.());

  const copy = $("copy");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const text = $("trace-id").textContent;
    let done = false;
    if (navigator.clipboard) done = await navigator.clipboard.writeText(text).then(() => true, () => false);
    if (!done) { // not over https: select it, and copy what is selected
      getSelection().selectAllChildren($("trace-id"));
      done = document.execCommand("copy");
    }
    copy.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });

  addEventListener("resize", () => { drawAxis(); drawJoins(); });
  const asked = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
  if (asked && asked.matches('[role="treeitem"]')) reveal(asked);
  zoomTo(1, 0);
})();
