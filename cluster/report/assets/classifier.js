// The classifier that was published: why this one, what calibration changed, what it promises and what was measured.
import { el, svg, section, count, number, share, stageTitle } from "./dom.js";

const NAMES = { nll: "NLL", accuracy: "accuracy", macro_f1: "macro F1", brier: "Brier score", ece: "ECE" };

export function classifier(data) {
  if (!data.classifiers.length) return null;
  return section("classifier", "Published classifier",
    "The candidate that was best on the val clips, calibrated there. Sets and threshold come from held-out clips that nothing learned from; test clips gave figures only.",
    data.classifiers.map((one) => [data.classifiers.length > 1 && el("h3", {}, stageTitle(one.stage)), published(one)]));
}

function published(one) {
  return [
    one.foreign && el("p", { class: "callout failed" }, el("b", {}, "Traces of another policy: "), one.foreign),
    el("p", { class: "classifier-method" }, el("b", {}, one.method), ` \u2013 ${formula(one)}. Version ${one.version.slice(0, 12)}, of policy ${one.policy_version}.`),
    one.not_attained.length > 0 && el("div", { class: "callout" }, el("b", {}, "Not attained"),
      el("ul", {}, one.not_attained.map((line) => el("li", {}, sentence(line))))),
    one.selection && candidates(one.selection),
    one.plateau && !one.not_attained.includes(one.plateau.explanation) && el("p", { class: "note" }, "The verdict's training: ", one.plateau.explanation, "."),
    one.figures.length > 0 && figures(one.figures),
    one.coverage.length > 0 && coverage(one),
    one.thresholds.length > 0 && automatic(one),
  ];
}

function formula(one) {
  if (one.temperature !== null) return `its log-probabilities divided by a temperature of ${number(one.temperature)}`;
  const terms = Object.entries(one.calibrator.weights).map(([source, weight]) => `${number(weight)} \u00d7 ${source}`);
  return `log-probabilities added as ${terms.join(" + ")}`;
}

function table(names, rows, label) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, names.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), el("tbody", {}, rows)));
}

function candidates({ candidates: all, chosen, by, num_samples: num, explanation }) {
  const cross = all.every((one) => one.cross_fitted) ? ", cross-fitted" : "";
  const rows = all.map(({ name, figures: at }) => el("tr", { class: name === chosen ? "stage" : null },
    el("th", { scope: "row" }, name, name === chosen && el("span", { class: "good" }, " \u2713 chosen")),
    el("td", { class: "num strong" }, share(at.nll)), el("td", { class: "num" }, ends(at, "nll")),
    el("td", { class: "num strong" }, share(at.accuracy)), el("td", { class: "num" }, ends(at, "accuracy")),
    [at.macro_f1, at.ece, at.brier].map((value) => el("td", { class: "num" }, share(value)))));
  return el("div", {}, el("h3", {}, "Candidates"),
    el("p", { class: "note" }, `On ${count(num)} val clips${cross}, the best by ${NAMES[by]} first; intervals are 95%. `, sentence(explanation)),
    table([["Candidate"], ["NLL", "num"], ["95% interval", "num"], ["Accuracy", "num"], ["95% interval", "num"], ["Macro F1", "num"], ["ECE", "num"], ["Brier", "num"]], rows, "Candidates"));
}

function figures(splits) {
  const rows = splits.map(({ split, before, after }) => el("tr", {},
    el("th", { scope: "row" }, split.replaceAll("_", " ")), el("td", { class: "num" }, count(after.num_samples)),
    ["ece", "nll"].map((name) => [el("td", { class: "num" }, share(before[name])), el("td", { class: "num strong" }, share(after[name])), el("td", { class: "num" }, ends(after, name))]),
    el("td", { class: "num strong" }, share(after.accuracy)), el("td", { class: "num" }, ends(after, "accuracy"))));
  const three = (name) => [[`${name} before`, "num"], ["after", "num"], ["95% interval", "num"]];
  return el("div", {}, el("h3", {}, "Before and after calibration"),
    el("p", { class: "note" }, "Before: with a temperature of 1; of a pool, with weights of the same proportion that add up to 1. The temperature or the weights were fitted on val, so its own figures there are a little too good."),
    table([["Clips"], ["n", "num"], ...three("ECE"), ...three("NLL"), ["Accuracy", "num"], ["95% interval", "num"]], rows, "Figures before and after calibration"));
}

function coverage(one) {
  const rows = one.coverage.map((row) => {
    const { measured } = row;
    const below = measured.high < row.promise;
    return el("tr", {}, el("th", { scope: "row" }, row.group === "all" ? "all clips" : row.group, el("small", { class: "flush" }, `${row.kind.replaceAll("_", "-")}, ${row.split}`)),
      el("td", { class: "num" }, count(measured.num_samples)), el("td", { class: "num" }, share(row.promise)), el("td", { class: "num strong" }, share(measured.share)),
      el("td", { class: "num" }, ends(measured)), el("td", { class: "span" }, bar(measured, row.promise, below)),
      el("td", {}, kept(below, measured.share < row.promise, measured.low > row.promise ? "above the promise" : "not below the promise", "below the promise")),
      el("td", { class: "num" }, measured.mean_size.toFixed(2)), el("td", { class: "num" }, share(measured.single_frac)), el("td", { class: "num" }, share(measured.empty_frac)));
  });
  return el("div", {}, el("h3", {}, "Prediction sets: coverage beside its promise"),
    el("ul", { class: "note" }, one.sets_texts.map((text) => el("li", {}, sentence(text)))),
    table([["Clips"], ["n", "num"], ["Promised", "num"], ["Measured", "num"], ["95% interval", "num"], ["", "span"], [""], ["Labels in a set", "num"], ["Single", "num"], ["Empty", "num"]], rows, "Coverage of prediction sets"));
}

function automatic(one) {
  const rows = one.automatic.map((row) => {
    const { measured } = row;
    const above = measured.low !== null && measured.low > row.promise;
    return el("tr", {}, el("th", { scope: "row" }, row.group === "all" ? "all clips" : row.group, el("small", { class: "flush" }, row.split)),
      el("td", { class: "num" }, count(measured.num_samples)), el("td", { class: "num" }, count(measured.num_automatic)), el("td", { class: "num" }, share(row.promise)),
      el("td", { class: "num strong" }, share(measured.error)), el("td", { class: "num" }, measured.error === null ? "\u2013" : ends(measured)),
      el("td", {}, measured.error !== null && kept(above, measured.error > row.promise, "not above the promise", "above the promise")));
  });
  return el("div", {}, el("h3", {}, "Automatic decisions"),
    el("ul", {}, one.threshold_texts.map((text, at) => el("li", {}, verdict(one.thresholds[at].value !== null, "attainable", "not attainable"), ` ${sentence(text)}`))),
    rows.length > 0 && table([["Clips"], ["n", "num"], ["Automatic", "num"], ["Promised error", "num"], ["Measured", "num"], ["95% interval", "num"], [""]], rows, "Errors of automatic decisions"));
}

function bar({ share: value, low, high }, promise, below) {
  const x = (at) => 4 + at * 132;
  return svg("svg", { viewBox: "0 0 140 18", width: 140, height: 18, "aria-hidden": "true", css: { "--at": `var(--${below ? "bad" : "good"})` } },
    svg("line", { x1: x(0), x2: x(1), y1: 9, y2: 9, class: "gridline" }), svg("line", { x1: x(promise), x2: x(promise), y1: 1, y2: 17, class: "reference" }),
    svg("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, class: "interval thin" }), svg("circle", { cx: x(value), cy: 9, r: 3.5, class: "dot" }));
}

function verdict(holds, yes, no) {
  return el("span", { class: `mark ${holds ? "good" : "bad"}` }, holds ? `\u2713 ${yes}` : `\u26a0 ${no}`);
}

// a promise: broken (by the whole interval), missed (perhaps by chance) or kept
function kept(broken, missed, yes, no) {
  return broken || !missed ? verdict(!broken, yes, no) : el("span", { class: "mark" }, `${no}, maybe by chance`);
}

function ends(at, name = "") {
  const key = name && `${name}_`;
  return `${share(at[`${key}low`])} \u2013 ${share(at[`${key}high`])}`;
}

function sentence(text) {
  return `${text}${text.endsWith(".") ? "" : "."}`;
}
