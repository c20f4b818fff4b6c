// Every stage and control arm in a table, and the paired tests between them.
import { el, svg, section, count, duration, number, share, signed, stageTitle } from "./dom.js";
import { stageColor } from "./theme.js";

export function results(data) {
  if (!data.arms.length) {
    return section("results", "Results", null, el("p", { class: "empty" }, "No stage has been measured yet."));
  }
  return section("results", "Results",
    "Figures come from the predictions. An answer that cannot be parsed is wrong. Intervals are 95% (Wilson). Tokens: of an answer, prompts + written.",
    figures(data), explanations(data), tests(data));
}

function explanations(data) {
  const arms = data.arms.filter((arm) => arm.explanations);
  if (!arms.length) return null;
  const names = ["Stage", "Written", "Agree with the label", "Named events in the narrative", "In another clip's", "Narrative named", "Name no event"];
  return el("div", {},
    el("h3", {}, "Do explanations agree with label and narrative?"),
    el("p", { class: "note" }, "The label is scored, the explanation is written beside it. Events are counted in its reasoning; another clip's narrative shows "
      + "what agreement comes without reading one's own."),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Explanations" }, el("table", { class: "figures" },
      el("thead", {}, el("tr", {}, names.map((name, at) => el("th", { scope: "col", class: at ? "num" : null }, name)))),
      el("tbody", {}, arms.map(({ name, explanations: of }) => {
        const shares = [of.agreement, of.supported_frac, of.elsewhere_frac, of.coverage].map((value) => share(value));
        const cells = [count(of.num_written), ...shares, of.num_unnamed ?? "\u2013"];
        return el("tr", {}, el("th", { scope: "row" }, stageTitle(name)), cells.map((value) => el("td", { class: "num" }, value)));
      })))));
}

function figures(data) {
  const names = [["Stage"], ["Clips", "num"], ["Accuracy", "num"], ["95% interval", "num"], ["", "span"], ["Macro F1", "num"],
    ["Balanced", "num"], ["ECE", "num"], ["Brier", "num"], ["Surest 80%", "num"], ["Unparsed", "num"], ["Failed", "num"],
    ["Tokens", "num"], ["Time", "num"]];
  const stages = data.arms.filter((arm) => arm.is_stage);
  const rest = data.arms.filter((arm) => !arm.is_stage);
  const body = el("tbody", {}, stages.map((arm) => row(arm, data)));
  if (data.majority !== null) {
    body.append(el("tr", { class: "baseline" }, el("th", { scope: "row" }, "Majority label", el("small", {}, "most frequent train label, always")),
      el("td", {}), el("td", { class: "num" }, share(data.majority)), el("td", {}), bar(data.majority, data.majority, data.majority, "c8", data),
      Array.from({ length: 9 }, () => el("td", {}))));
  }
  const more = rest.length > 0 && el("tbody", {},
    el("tr", { class: "group" }, el("th", { colspan: names.length, scope: "colgroup" }, "Head, published classifier and control arms")),
    rest.map((arm) => row(arm, data)));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of stages and control arms" },
    el("table", { class: "figures" },
      el("thead", {}, el("tr", {}, names.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))),
      body, more));
}

function row(arm, data) {
  const said = arm.evaluation;
  const cell = (value) => el("td", { class: "num" }, value);
  return el("tr", { class: arm.is_stage ? "stage" : null },
    el("th", { scope: "row" },
      el("i", { class: "swatch", css: { "--at": `var(--${stageColor(arm.name)})` } }),
      stageTitle(arm.name), !arm.finished && el("em", {}, " not finished"),
      arm.text && el("small", {}, arm.text)),
    cell(`${count(said.num_samples)} ${arm.split}`),
    el("td", { class: "num strong" }, share(said.accuracy)),
    cell(`${share(said.accuracy_low)} \u2013 ${share(said.accuracy_high)}`),
    bar(said.accuracy, said.accuracy_low, said.accuracy_high, stageColor(arm.name), data),
    cell(share(said.macro_f1)), cell(share(said.balanced_accuracy)),
    cell(arm.reliability.length ? share(said.ece) : "\u2013"), cell(share(said.brier)),
    cell(arm.reliability.length ? share(said.selective_accuracy) : "\u2013"),
    cell(said.unparsed_frac ? share(said.unparsed_frac) : "0"), cell(arm.num_failed), cell(tokens(arm.inference)), cell(arm.seconds === null ? "\u2013" : duration(arm.seconds)));
}

/** Tokens per clip of an answer: those of its prompts, and those that are written. */
function tokens(cost) {
  return cost ? `${Math.round(cost.prompt_tokens)} + ${Math.round(cost.generated_tokens)}` : "\u2013";
}

function bar(value, low, high, name, data) {
  const x = (at) => 4 + at * 102;
  return el("td", { class: "span" }, svg("svg", { viewBox: "0 0 110 18", width: 110, height: 18, "aria-hidden": "true", css: { "--at": `var(--${name})` } },
    svg("line", { x1: x(0), x2: x(1), y1: 9, y2: 9, class: "gridline" }),
    data.majority !== null && svg("line", { x1: x(data.majority), x2: x(data.majority), y1: 2, y2: 16, class: "reference" }),
    svg("line", { x1: x(low), x2: x(high), y1: 9, y2: 9, class: "interval thin" }),
    svg("circle", { cx: x(value), cy: 9, r: 3.5, class: "dot" })));
}

function tests(data) {
  if (!data.tests.length) return null;
  const steps = data.tests.filter((test) => test.is_stage_step);
  const others = data.tests.filter((test) => !test.is_stage_step);
  return el("div", {},
    el("h3", {}, "Is the difference more than chance?"),
    el("p", { class: "note" }, "The second against the first on the same clips. Interval: Newcombe's for paired shares; p: exact McNemar, "
      + `not corrected for the number of tests (${data.tests.length}).`),
    steps.length > 0 && testTable(steps),
    others.length > 0 && el("details", {}, el("summary", {}, `Last stage against the ${others.length} others`), testTable(others)));
}

function testTable(found) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Paired tests" }, el("table", { class: "figures" },
    el("thead", {}, el("tr", {}, ["First", "Second", "Difference", "95% interval", "Became right", "Became wrong", "Both right", "Both wrong", "p"]
      .map((name, at) => el("th", { scope: "col", class: at > 1 ? "num" : null }, name)))),
    el("tbody", {}, found.map(({ before, after, comparison }) => {
      const { flips } = comparison;
      const cells = [`${signed(comparison.difference_low)} to ${signed(comparison.difference_high)}`, flips.wrong_to_right, flips.right_to_wrong,
        flips.both_right, flips.both_wrong, flips.p_value < 0.001 ? "< 0.001" : number(flips.p_value)];
      return el("tr", {}, el("th", { scope: "row" }, stageTitle(before)), el("td", {}, stageTitle(after)),
        el("td", { class: "num strong" }, signed(comparison.difference)), cells.map((value) => el("td", { class: "num" }, value)));
    }))));
}
