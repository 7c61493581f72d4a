// What drawing would take, as a preflight says.
import { $, h, say } from "./dom.js";
import { costOf, duration } from "./format.js";
import { t } from "./page_data.js";
import { warningOf } from "./problems.js";

export function forgetEstimate() {
  $("estimate").removeAttribute("aria-busy");
  say($("estimate-time"), "–");
  say($("estimate-cost"), "–");
  $("notes").replaceChildren();
}

export function showEstimate(answer) {
  const { eta_ms: eta, queue_ms: queue, cold_start_ms: cold, cost, warnings } = answer;
  const values = { time: duration(eta ?? 0), queue: duration(queue ?? 0), cold: duration(cold ?? 0) };
  if (eta === null || eta === undefined) say($("estimate-time"), t("estimate_unknown"));
  else if (cold > 0) say($("estimate-time"), t("estimate_cold", values));
  else if (queue >= 1000) say($("estimate-time"), t("estimate_queue", values));
  else say($("estimate-time"), values.time);
  say($("estimate-cost"), costOf(cost ?? {}) || t("estimate_unknown"));
  const notes = Array.isArray(warnings) ? warnings.map(String) : [];
  $("notes").replaceChildren(...notes.map((note) => h("li", {}, warningOf(note))));
}
