// Files that are dropped on the page, or pasted: a picture to draw from, or a file with a receipt.
import { $ } from "./dom.js";
import { takesPictures } from "./picture_tasks.js";

const carriesFile = ({ dataTransfer }) => [...dataTransfer?.types ?? []].includes("Files");

/** `use(file)` takes a picture, `read(file)` a receipt: where the file is dropped decides. */
export function listenToDrops({ use, read }) {
  let depth = 0;
  const zones = [...$("drop").querySelectorAll("[data-drop]")];
  $("drop").querySelector('[data-drop="use"]').hidden = !takesPictures;
  const aimed = ({ clientX, clientY }) => {
    const isIn = ({ left, right, top, bottom }) => clientX >= left && clientX <= right && clientY >= top && clientY <= bottom;
    const zone = zones.find((each) => !each.hidden && isIn(each.getBoundingClientRect()));
    return zone?.dataset.drop ?? (takesPictures ? "use" : "read");
  };
  const over = (by) => {
    depth = Math.max(0, depth + by);
    $("drop").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => carriesFile(event) && over(1));
  addEventListener("dragleave", (event) => carriesFile(event) && over(-1));
  addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    const aim = aimed(event);
    for (const zone of zones) zone.classList.toggle("aimed", zone.dataset.drop === aim);
  });
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    const aim = aimed(event);
    over(-depth);
    const [file] = event.dataTransfer.files;
    if (file) (aim === "use" ? use : read)(file);
  });
  addEventListener("paste", (event) => {
    const file = [...event.clipboardData?.files ?? []].find(({ type }) => type.startsWith("image/"));
    if (!file || !takesPictures) return;
    event.preventDefault();
    use(file);
  });
}
