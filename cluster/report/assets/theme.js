// Light or dark: as the system has it, until the button says otherwise.
import { replace, stageKind } from "./dom.js";

const listeners = [];
const system = matchMedia("(prefers-color-scheme: dark)");

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}

export function onTheme(listener) {
  listeners.push(listener);
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  changed();
}

function changed() {
  const button = document.getElementById("theme-button");
  replace(button, isDark() ? "Light" : "Dark");
  button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
  for (const listener of listeners) listener();
}

export function startTheme() {
  document.getElementById("theme-button").addEventListener("click", toggleTheme);
  system.addEventListener("change", changed);
  // Paper is light.
  let before;
  addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    changed();
  });
  addEventListener("afterprint", () => {
    if (before) document.documentElement.dataset.theme = before;
    else delete document.documentElement.dataset.theme;
    changed();
  });
  changed();
}

// The first stage of a kind has the kind's color, each further one the next of the spare ones.
const KIND_COLORS = { evaluate: "c8", sft: "c5", grpo: "c2", calibrate: "c1", head: "c3", classifier: "c7" };
const SPARE_COLORS = ["c4", "c6", "c7"];

export function stageColor(name) {
  const { kind, place } = stageKind(name);
  if (place > 0 && kind !== "evaluate") return SPARE_COLORS[(place - 1) % SPARE_COLORS.length];
  return KIND_COLORS[kind] || "c8";
}
