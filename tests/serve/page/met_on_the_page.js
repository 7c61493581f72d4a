// What a person meets on the page, as one object: `evaluate` calls its functions.
({
  /** Whatever can be used or seen, and has no name. */
  unnamed() {
    return [...document.querySelectorAll("button, a, input, textarea, select, img, summary, dialog")]
    .filter((each) => each.checkVisibility() || each.matches("dialog"))
    .filter((each) => {
      const refers = (each.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
      const name = each.getAttribute("aria-label")
        || refers.map((id) => document.getElementById(id).textContent).join(" ")
        || [...each.labels ?? []].map((label) => label.textContent).join(" ")
        || (each.matches("button, a, summary") ? each.textContent : "") || each.alt;
      return !name?.trim() && !(each.matches("img") && each.hasAttribute("alt"));
    })
    .map((each) => each.outerHTML);
  },

  /** Texts below what WCAG's AA asks for. */
  poorContrast() {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
    const light = (colour) => {
      const [r, g, b] = colour.map((value) => {
        const part = value / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const grounds = (element) => {
      const found = [];
      for (let each = element; each; each = each.parentElement) found.push(rgba(getComputedStyle(each).backgroundColor));
      return found.reverse().reduce((below, above) => over(above, below), [255, 255, 255]);
    };
    const opacity = (element) => {
      let product = 1;
      for (let each = element; each; each = each.parentElement) product *= Number(getComputedStyle(each).opacity);
      return product;
    };
    const poor = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
      if (!text || element.closest("script, style, noscript, .hidden, .skip") || !element.checkVisibility()) continue;
      const style = getComputedStyle(element), ground = grounds(element);
      const [r, g, b, a] = rgba(style.color);
      const ink = over([r, g, b, a * opacity(element)], ground);
      const [more, less] = [light(ink), light(ground)].sort((x, y) => y - x);
      const contrast = (more + 0.05) / (less + 0.05);
      const isLarge = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
      if (contrast < (isLarge ? 3 : 4.5)) poor.push(`${text}: ${contrast.toFixed(2)}`);
    }
    return poor;
  },

  /** All texts that are not marked as another language's. */
  said() {
    const said = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const { data, parentElement } = walker.currentNode;
      if (data.trim() && !parentElement.closest("script, style, [lang=en]")) said.push(data.trim());
    }
    for (const each of document.querySelectorAll("body *")) {
      for (const name of ["aria-label", "aria-valuetext", "title", "placeholder"]) {
        if (each.hasAttribute(name)) said.push(each.getAttribute(name));
      }
    }
    return said;
  },
})
