// What the model can do with a picture, by the tasks on its card; the same choice as the server's.
import { model } from "./page_data.js";

const does = (...tasks) => tasks.some((task) => model.tasks?.includes(task));

export const canMark = does("inpaint", "fill", "edit-inpaint");
export const takesPictures = canMark || does("image-to-image", "edit");

/** How a picture can be drawn from, the likeliest first: `edit`, by an instruction, or `redraw`, by a
 * description. `hasArea`: only a part of it, or what is around it. */
export function waysWith(hasArea) {
  const edits = hasArea ? does("edit-inpaint") : does("edit");
  const redraws = hasArea ? does("inpaint", "fill") : does("image-to-image");
  return [...(edits ? ["edit"] : []), ...(redraws ? ["redraw"] : [])];
}

/** Whether it matters how much of the picture is kept: what only looks at it takes no strength. */
export const takesStrength = (way, hasArea) => way === "redraw" || hasArea;

/** An edit inside of a mask is asked for by a prefix, where a description would do as well. */
export const prefixOf = (way, hasArea) => (way === "edit" && hasArea && waysWith(true).length > 1 ? "[EDIT] " : "");
