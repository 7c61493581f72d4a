// What a job, a file's receipt or the form says of a picture, in the API's names.
import { model, shapes } from "./page_data.js";

/** What the form has fields for. */
const IN_FORM = ["prompt", "negative_prompt", "true_cfg_scale", "n", "size", "aspect_ratio", "quality",
  "num_inference_steps", "seed"];

/** What else decides on a picture, or on its file, and what each is where nobody says so. */
const BESIDE = {
  guidance_scale: model.defaults.guidance_scale, skip_steps: false, step_cuts: [], min_steps: null, deadline_ms: null,
  priority: model.defaults.priority, output_format: "png", output_compression: null, prompt_weighting: false,
  paste_back: true, reference_image: null, control: null,
};

/** The fields of a request that the page knows, those that are there; in `also`, those that the form
 * has no field for. */
export function settingsIn(request) {
  const known = request !== null && typeof request === "object" ? request : {};
  const settings = Object.fromEntries(IN_FORM.filter((name) => isPlain(known[name])).map((name) => [name, known[name]]));
  const quality = qualityOf(known), also = alsoIn(known);
  if (quality === undefined) return { ...settings, also };
  delete also.skip_steps; // the quality says it
  return { ...settings, quality, num_inference_steps: undefined, also };
}

/** What `known` says beside the form's fields, where that is another than it would be anyway. */
function alsoIn(known) {
  const also = {};
  for (const [name, usual] of Object.entries(BESIDE)) {
    const value = known[name] ?? null;
    if (value === null || !(isPlain(value) || Array.isArray(value))) continue;
    if (JSON.stringify(value) !== JSON.stringify(usual ?? null)) also[name] = value;
  }
  // The form takes an empty negative prompt for none.
  if (known.negative_prompt === "" && known.true_cfg_scale > 1) Object.assign(also, { negative_prompt: "", true_cfg_scale: known.true_cfg_scale });
  return also;
}

/** The quality that means these steps; a request that was stored names the steps alone. */
function qualityOf({ num_inference_steps: steps, skip_steps: skips, step_cuts: cuts, min_steps: least }) {
  if (cuts?.length || typeof least === "number") return undefined;
  const { quality_steps: stepsOf, skipping_qualities: skipping } = model.defaults;
  return Object.keys(stepsOf).find((quality) => stepsOf[quality] === steps && skipping.includes(quality) === Boolean(skips));
}

/** The settings of one image of a job: it alone, with the seed that it had. */
export function settingsOf(job, output) {
  const settings = settingsIn(job.request);
  return output ? { ...settings, seed: output.seed, n: 1, size: `${output.width}x${output.height}`, aspect_ratio: undefined } : settings;
}

export function sizeIn(settings) {
  const [width, height] = (settings.size ?? "").split("x").map(Number);
  return width > 0 && height > 0 ? { width, height } : null;
}

/** The file of an output: at this server, under whatever name and prefix the page has it. */
export function fileOf(output) {
  return /v1\/files\/[\w.-]+$/.exec(output.url)?.[0] ?? null;
}

/** The picture that a request draws from, where it is a file of the server's: its path, and what else
 * is said of it; null without one. */
export function inputOf(request) {
  const [id] = [request?.image ?? []].flat();
  if (!isFileId(id)) return null;
  const { mask_image: mask, outpaint, strength } = request;
  return { path: `v1/files/${id}`, mask: isFileId(mask) ? `v1/files/${mask}` : null, outpaint, strength };
}

const isFileId = (id) => typeof id === "string" && /^[0-9a-f]{32,48}$/.test(id);

export const isOffered = (shape) => shapes.includes(shape);

const isPlain = (value) => ["string", "number", "boolean"].includes(typeof value);
