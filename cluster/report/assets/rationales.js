// Rationales that a policy wrote to be learned from: what each filter dropped, and a few to read.
import { el, section, count, number, share, stageTitle } from "./dom.js";

export function rationales(data) {
  if (!data.rationales.length) return null;
  return section("rationales", "Rationales", "What the policy wrote about labelled clips, and which of it is kept to learn from. A filter that is off is counted, too.",
    table(data.rationales), data.rationales.map(examples));
}

function table(records) {
  const reasons = Object.keys(records[0].figures.filters);
  const names = ["Stage", "Written", "Kept", "Clips", "Name a label", "Right", "Words", ...reasons];
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of rationales" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, names.map((name, at) => el("th", { scope: "col", class: at ? "num" : null }, name)))),
    el("tbody", {}, records.map(({ stage, figures: of }) => {
      const cells = [count(of.num_written), `${count(of.num_kept)} (${share(of.kept_frac)})`, count(of.num_clips_kept), share(of.answered_frac), share(of.right_frac), number(of.mean_words),
        ...reasons.map((reason) => filter(of.filters[reason]))];
      return el("tr", {}, el("th", { scope: "row" }, stageTitle(stage), el("small", {}, of.hint ? `${of.task}s, with the label as a hint` : `${of.task}s, without a hint`)),
        cells.map((value) => el("td", { class: "num" }, value)));
    }))));
}

/** How often a filter's reason holds; in brackets where the filter is off. */
function filter(one) {
  if (!one) return "\u2013";
  return one.on ? count(one.num) : `(${count(one.num)})`;
}

function examples({ stage, examples: shown }) {
  if (!shown.length) return null;
  return el("details", {}, el("summary", {}, `${stageTitle(stage)}: ${shown.length} to read`),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Rationales of ${stageTitle(stage)}` }, el("table", { class: "figures left" },
      el("thead", {}, el("tr", {}, ["Clip", "Label", "Text", "Ends with", "Kept"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, shown.map((one) => el("tr", {}, el("th", { scope: "row" }, one.id), el("td", {}, one.label),
        el("td", {}, one.text), el("td", {}, one.answer ?? "\u2013"), el("td", {}, one.reason ? `no: ${one.reason}` : "yes")))))));
}
