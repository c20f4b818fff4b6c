// Numbers, times and names as people read them.

export const percent = (value, digits = 1) => (Number.isFinite(value) ? `${(100 * value).toFixed(digits)}%` : "none");

// A probability; only what is certain reads as 0% or 100%.
export function chance(value) {
  const text = percent(value);
  if (text === "100.0%" && value < 1) return "> 99.9%";
  return text === "0.0%" && value > 0 ? "< 0.1%" : text;
}

export const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "none");
export const whole = (value) => Number(value ?? 0).toLocaleString("en");

export function seconds(value) {
  if (!Number.isFinite(value)) return "none";
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  return value < 100 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

const asDate = (value) => new Date(typeof value === "number" ? value * 1000 : value);

export function ago(value) {
  if (value === null || value === undefined) return "";
  const past = (Date.now() - asDate(value).getTime()) / 1000;
  if (!Number.isFinite(past)) return "";
  if (past < 45) return "just now";
  if (past < 3600) return `${Math.max(1, Math.round(past / 60))} min ago`;
  if (past < 86400) return `${Math.round(past / 3600)} h ago`;
  return asDate(value).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
}

export const when = (value) => (value === null || value === undefined ? "" : asDate(value).toLocaleString("en"));

export const ACTIONS = {
  auto: ["auto", "check", "Automatic"],
  review: ["review", "person", "Review"],
  pass: ["pass", "pass", "Passed"],
};
