// Light or dark: as the system has it, until the button says otherwise.
import { replace } from "./dom.js";

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

const STAGE_COLORS = { base: "c8", coldstart: "c5", grpo: "c2", calibrated: "c1", head: "c3" };

export function stageColor(name) {
  return STAGE_COLORS[name] || "c8";
}
