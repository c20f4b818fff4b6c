// Starts the page: data block -> sections, keys, theme.
import { el, append, replace, section, count, declareStages } from "./dom.js";
import { startTheme, toggleTheme } from "./theme.js";
import { drawAll } from "./figures.js";
import { head } from "./head.js";
import { results } from "./results.js";
import { curves } from "./curves.js";
import { guards } from "./guards.js";
import { fleet } from "./fleet.js";
import { rationales } from "./rationales.js";
import { calibration, confusion } from "./calibration.js";
import { classifier } from "./classifier.js";
import { browser } from "./browser.js";

const KEYS = [["j, k", "next, previous clip or group"], ["arrows", "the same, when the list has the focus"], ["/", "search"], ["space", "play or pause the clip"],
  ["t", "light or dark"], ["Esc", "leave the search, close this"], ["?", "this help"]];

function quarantine(data) {
  const found = data.quarantined;
  if (!found.length) return null;
  return section("quarantine", "Clips left out", `${count(found.length)} could not be used and were skipped.`,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Clips left out" }, el("table", { class: "figures left" }, el("thead", {}, el("tr", {}, ["Clip", "Reason", "File"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, found.slice(0, 500).map((one) => el("tr", {}, el("th", { scope: "row" }, one.sample_id), el("td", {}, one.reason), el("td", { class: "path" }, one.video)))))),
    found.length > 500 && el("p", { class: "note" }, `The first 500 of ${count(found.length)}; all are in quarantine.jsonl.`));
}

function recipe(data) {
  return section("recipe", "Recipe", null, el("details", {}, el("summary", {}, `Every setting of this run, resolved (${data.recipe.length})`),
    el("table", { class: "settings" }, el("tbody", {}, data.recipe.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)))))));
}

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  declareStages(data.stages);
  startTheme();
  append(document.getElementById("brand"), ["DeepIntuit", el("span", {}, data.run.name)]);
  const traces = browser(data);
  const matrices = confusion(data, (stage, label, answer) => traces.pick(stage, label, answer));
  const parts = [head(data), results(data), rationales(data), curves(data), guards(data), fleet(data), calibration(data), classifier(data), matrices, traces.node, quarantine(data), recipe(data)].filter(Boolean);
  replace(document.getElementById("main"), parts);
  replace(document.getElementById("nav"), parts.slice(1).map((part) => el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  helpDialog();
  addEventListener("keydown", (event) => pressed(event, traces));
  addEventListener("beforeprint", drawAll);
  if (location.hash) document.getElementById(location.hash.slice(1).split("?")[0])?.scrollIntoView();
  document.documentElement.dataset.ready = "1";
}

function helpDialog() {
  const dialog = document.getElementById("help");
  replace(dialog, el("h2", { id: "help-title" }, "Keys"), el("dl", { class: "keys" }, KEYS.map(([key, text]) => el("div", {}, el("dt", {}, el("kbd", {}, key)), el("dd", {}, text)))),
    el("button", { type: "button", on: { click: () => dialog.close() } }, "Close"));
  document.getElementById("help-button").addEventListener("click", () => dialog.showModal());
}

function pressed(event, traces) {
  const dialog = document.getElementById("help");
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (target.closest("input, select, textarea")) {
    if (key === "Escape") target.blur();
    return;
  }
  if (key === "?") dialog.showModal();
  else if (key === "t") toggleTheme();
  else if (!traces.key(key, event)) return;
  event.preventDefault();
}

start();
