// Compare: two classifiers, their figures side by side, and one clip through both.

import { ask } from "./classify.js";
import { get } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { actionTag, bars, classifiers, failed, head, loaded, notice, otherAnswer, panel, state, trace } from "./parts.js";
import { fixed, percent, seconds, whole } from "./words.js";

const FIGURES = [
  ["accuracy", "Accuracy", percent, 1],
  ["macro_f1", "Macro F1", fixed, 1],
  ["ece", "Calibration error (ECE)", fixed, -1],
  ["brier", "Brier score", fixed, -1],
  ["nll", "Negative log-likelihood", fixed, -1],
  ["set_coverage", "Coverage of prediction sets", percent, 0],
  ["mean_set_size", "Mean size of the sets", (value) => fixed(value, 2), -1],
  ["automatic_share", "Share decided automatically", percent, 1],
  ["automatic_error", "Errors among those", percent, -1],
  ["threshold", "Threshold of confidence", fixed, 0],
  ["num_samples", "Test clips", whole, 0],
];

export async function compareView({ root, params, signal }) {
  const body = h("div", {});
  fill(root, head("Compare", "Figures of two classifiers side by side, and a clip of yours through both."), body);
  await loaded(body, () => classifiers(signal, { fresh: true }), (known) => (known.list.length === 0 ? noClassifiers() : comparison(known, params, signal)));
}

const noClassifiers = () => state("empty", "No classifiers yet", "Register one, or let a fit make one.", h("a", { class: "button main", href: "#/classifiers" }, "Classifiers"));

function comparison({ list, aliases }, params, signal) {
  const newest = list.at(-1).version;
  const first = params.get("a") ?? String(aliases.champion ?? newest);
  const second = params.get("b") ?? String(aliases.challenger ?? aliases.previous ?? list.find((one) => String(one.version) !== first)?.version ?? first);
  const go = (name) => (event) => (location.hash = `#/compare?${new URLSearchParams({ a: first, b: second, [name]: event.target.value })}`);
  const choose = (name, value, words) =>
    h("label", { class: "field" }, words, h("select", { name, onchange: go(name) }, list.map((one) => h("option", { value: String(one.version), selected: String(one.version) === value }, titleOf(one, aliases)))));
  const figures = h("div", {});
  loaded(figures, () => Promise.all([first, second].map((version) => get(`/v1/classifiers/${encodeURIComponent(version)}`, { signal }))), (pair) => figuresTable(pair));
  return h(
    "div",
    { class: "stack" },
    h("div", { class: "pair" }, choose("a", first, "A"), choose("b", second, "B")),
    first === second && notice("warn", "alert", "Both sides are the same version: choose another one to compare it with."),
    panel("Figures", "of each classifier's own test clips", figures),
    panel("One clip through both", null, clipForm([first, second], signal)),
  );
}

const titleOf = (one, aliases) => {
  const names = Object.entries(aliases).filter(([, version]) => version === one.version).map(([name]) => name);
  return `Version ${one.version}${names.length > 0 ? ` (${names.join(", ")})` : ""}: ${one.method}`;
};

function figuresTable([a, b]) {
  const values = (one) => one.figures?.headline ?? {};
  const row = ([name, words, format, better]) => {
    const [x, y] = [values(a)[name], values(b)[name]];
    if (!Number.isFinite(x) && !Number.isFinite(y)) return null;
    const both = Number.isFinite(x) && Number.isFinite(y);
    const differ = both && format(x) !== format(y);
    const sign = differ ? Math.sign(better * (y - x)) : 0;
    const cell = (value, isBest) => h("td", { class: `right ${isBest ? "best" : ""}` }, Number.isFinite(value) ? format(value) : h("span", { class: "faint" }, "not measured"));
    const difference = differ ? `${y > x ? "+" : "\u2212"}${format(Math.abs(y - x)).replace("%", " pts")}` : "";
    return h("tr", {}, h("td", {}, words), cell(x, sign < 0), cell(y, sign > 0), h("td", { class: `right ${sign > 0 ? "good" : sign < 0 ? "bad" : "faint"}` }, difference, sign !== 0 && h("span", { class: "unseen" }, sign > 0 ? " B is better" : " A is better"), sign !== 0 && h("span", { "aria-hidden": "true" }, sign > 0 ? " \u2713" : " \u2717")));
  };
  const rows = FIGURES.map(row).filter(Boolean);
  const interval = (one) => {
    const { accuracy_low: low, accuracy_high: high } = values(one);
    return Number.isFinite(low) ? `${percent(low)} to ${percent(high)}` : "";
  };
  return h(
    "div",
    {},
    h("div", { class: "scroll" }, h("table", { class: "table figures" }, h("thead", {}, h("tr", {}, h("th", {}, "Figure"), h("th", { class: "right" }, `A (v${a.version})`), h("th", { class: "right" }, `B (v${b.version})`), h("th", { class: "right" }, "B \u2212 A"))), h("tbody", {}, rows.length > 0 ? rows : h("tr", {}, h("td", { colspan: "4", class: "soft" }, "Neither has measured figures."))))),
    interval(a) && h("p", { class: "soft small table-note" }, `95% intervals of accuracy: A ${interval(a)}; B ${interval(b)}. Where they overlap, the difference may be chance.`),
  );
}

function clipForm(versions, signal) {
  const results = h("div", {});
  const input = h("input", { type: "file", accept: "video/*,.mkv,.avi,.webm", class: "unseen", "aria-label": "Choose a video", onchange: () => input.files[0] && go({ file: input.files[0], name: input.files[0].name }) });
  const address = h("input", { class: "input", placeholder: "/data/clip.mp4 or https://host/clip.mp4", "aria-label": "Path on the server, or address", spellcheck: "false", autocomplete: "off" });
  const go = (clip) => through(versions, clip, results, signal);
  const zone = h(
    "div",
    { class: "inner stack" },
    h("div", { class: "row" }, h("button", { class: "button main", onclick: () => input.click() }, icon("drop"), "Choose a clip"), input, h("span", { class: "soft small" }, "or drop it here, or"), h("form", { class: "address grow", onsubmit: (event) => (event.preventDefault(), address.value.trim() && go({ address: address.value.trim(), name: address.value.trim().split("/").pop() })) }, address, h("button", { class: "button" }, "Ask both"))),
    results,
  );
  document.addEventListener("dragover", (event) => event.preventDefault(), { signal });
  document.addEventListener("drop", (event) => (event.preventDefault(), event.dataTransfer.files[0] && go({ file: event.dataTransfer.files[0], name: event.dataTransfer.files[0].name })), { signal });
  return zone;
}

// One after the other: where one classifier is loaded at a time, the second is refused in words.
async function through(versions, clip, place, signal) {
  const cells = versions.map(() => h("div", { class: "pair-cell" }, h("p", { class: "row soft" }, h("span", { class: "spinner" }), "Waiting")));
  const verdict = h("div", {});
  fill(place, h("div", { class: "stack" }, h("p", { class: "cut" }, clip.name), verdict, h("div", { class: "pair" }, cells)));
  const records = [];
  for (const [n, version] of versions.entries()) {
    try {
      const options = { classifier: version, control: null, window: null, text: null };
      records[n] = await ask({ ...clip, sent: 0, options }, () => {});
      if (signal.aborted) return;
      fill(cells[n], answerCell("AB"[n], records[n]));
    } catch (error) {
      fill(cells[n], failed(error));
    }
  }
  if (records[0] && records[1]) fill(verdict, agreement(records));
}

const agreement = ([a, b]) =>
  a.label === b.label
    ? notice("good", "check", `Both answer ${a.label}.`)
    : notice("warn", "alert", `They differ: A answers ${a.label}, B answers ${b.label}.`);

const answerCell = (name, record) =>
  h(
    "div",
    { class: "stack" },
    h("div", { class: "row apart" }, h("h2", { class: "anywhere" }, `${name}: ${record.label}`), actionTag(record.decision)),
    bars(record.probabilities, { set: record.prediction_set }),
    otherAnswer(record),
    trace(record.trace ?? ""),
    h("p", { class: "small faint num" }, `Version ${record.versions?.classifier}, ${seconds(record.seconds?.total)} `, h("a", { href: `#/decisions/${encodeURIComponent(record.id)}` }, "Open")),
  );
