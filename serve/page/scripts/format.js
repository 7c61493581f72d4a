import { locale, t } from "./page_data.js";

const inUnit = (unit, digits, unitDisplay = "short") => new Intl.NumberFormat(locale, {
  style: "unit", unit, unitDisplay, maximumFractionDigits: digits,
});
const tenths = inUnit("second", 1, "narrow"), seconds = inUnit("second", 0, "narrow"), minutes = inUnit("minute", 0);
const figures = new Intl.NumberFormat(locale, { maximumSignificantDigits: 2 });
const kilobytes = inUnit("kilobyte", 1);
const moments = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });

/** A time of so many milliseconds, as people say it. */
export function duration(ms) {
  if (ms < 9_950) return tenths.format(Math.max(ms, 100) / 1000);
  if (ms < 59_500) return seconds.format(ms / 1000);
  const whole = Math.round(ms / 1000);
  if (whole % 60 === 0) return minutes.format(whole / 60);
  return `${minutes.format(Math.floor(whole / 60))} ${seconds.format(whole % 60)}`;
}

const percents = new Intl.NumberFormat(locale, { style: "percent" });

/** Of a share of 1, the whole percents that are done: the same wherever they are said. */
export const wholePercents = (share) => Math.floor(100 * share + 1e-6);
export const percentage = (share) => percents.format(wholePercents(share) / 100);

export const fileSize = (bytes) => kilobytes.format(bytes / 1000);
export const moment = (unixSeconds) => moments.format(new Date(unixSeconds * 1000));

/** What drawing takes of the server, as far as that is known; "" where nothing is. */
export function costOf({ device_seconds: device, megapixel_steps: steps }) {
  const parts = [];
  if (typeof device === "number") parts.push(t("cost_device", { time: duration(1000 * device) }));
  if (typeof steps === "number") parts.push(t("cost_steps", { figure: figures.format(steps) }));
  return parts.join(" · ");
}
