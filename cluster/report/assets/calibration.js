// How far a stage's confidence can be trusted, what it mixes up, and what it can leave to a person.
import { el, svg, section, options, replace, count, share, stageKind, stageTitle } from "./dom.js";
import { COLORS, card, chart, legend } from "./figures.js";
import { stageColor } from "./theme.js";

// Stages, and what a calibration leaves beside its verdict.
const isMain = (arm) => arm.is_stage || ["head", "classifier"].includes(stageKind(arm.name).kind);

export function calibration(data) {
  const sure = data.arms.filter((arm) => arm.reliability.length);
  if (!sure.length) return null;
  const main = sure.filter(isMain);
  const rest = sure.filter((arm) => !main.includes(arm));
  const extra = el("div");
  const select = el("select", { "aria-label": "Control arm" });
  options(select, rest.map((arm) => [arm.name, stageTitle(arm.name)]), rest[0]?.name);
  const show = () => replace(extra, rest.filter((arm) => arm.name === select.value).map((arm) => [el("p", { class: "unit" }, scores(arm)), diagram(arm)]));
  select.addEventListener("change", show);
  show();
  return section("calibration", "Calibration",
    "Is an answer of 90% confidence right nine times in ten? Of a written answer, confidence is the probability of its tokens; of a verdict, that of the label.",
    el("div", { class: "grid squares" }, main.map((arm) => card(stageTitle(arm.name), scores(arm), diagram(arm))), coverage(main, rest.length === 0),
      rest.length > 0 && card("Control arm", select, extra)));
}

function scores({ evaluation }) {
  return `ECE ${share(evaluation.ece)}${evaluation.brier === null ? "" : ` \u00b7 Brier ${share(evaluation.brier)}`}`;
}

function diagram(arm) {
  const size = 250, left = 46, top = 10, plot = 194, strip = 44, base = top + plot;
  const x = (value) => left + value * plot;
  const y = (value) => base - value * plot;
  const most = Math.max(...arm.reliability.map((bin) => bin.count));
  const parts = [0, 0.5, 1].map((at) => [
    svg("line", { x1: left, x2: left + plot, y1: y(at), y2: y(at), class: "gridline" }),
    svg("text", { x: left - 6, y: y(at) + 4, class: "tick", "text-anchor": "end" }, at),
    svg("text", { x: x(at), y: base + strip + 16, class: "tick", "text-anchor": at === 0 ? "start" : at === 1 ? "end" : "middle" }, at)]);
  parts.push(svg("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), class: "reference" }));
  const points = [];
  for (const bin of arm.reliability) {
    const text = `confidence ${share(bin.confidence)}: ${share(bin.accuracy)} right of ${count(bin.count)}`;
    const tall = Math.max(1.5, (bin.count / most) * (strip - 16));
    parts.push(svg("line", { x1: x(bin.confidence), x2: x(bin.confidence), y1: y(bin.confidence), y2: y(bin.accuracy), class: "gap" }),
      svg("rect", { x: x(bin.confidence) - 5, y: base + strip - tall, width: 10, height: tall, class: "counts" }, svg("title", {}, text)));
    if (bin.count === most) parts.push(svg("text", { x: x(bin.confidence), y: base + strip - tall - 3, class: "tick", "text-anchor": "middle" }, count(bin.count)));
    points.push(svg("circle", { cx: x(bin.confidence), cy: y(bin.accuracy), r: 3 + 5 * Math.sqrt(bin.count / most), class: "dot" }, svg("title", {}, text)));
  }
  parts.push(svg("text", { x: left - 6, y: base + strip, class: "tick", "text-anchor": "end" }, "clips"));
  return svg("svg", { viewBox: `0 0 ${size} ${base + strip + 36}`, class: "square", role: "img", css: { "--at": `var(--${stageColor(arm.name)})` },
      "aria-label": `Reliability of ${stageTitle(arm.name)}: ${arm.reliability.map((bin) => `confidence ${share(bin.confidence)} accuracy ${share(bin.accuracy)} of ${bin.count}`).join("; ")}` },
      parts, points,
      svg("text", { x: left + plot / 2, y: base + strip + 32, class: "tick", "text-anchor": "middle" }, "confidence"),
      svg("text", { x: 11, y: top + plot / 2, class: "tick", "text-anchor": "middle", transform: `rotate(-90 11 ${top + plot / 2})` }, "accuracy"));
}

function coverage(arms, alone) {
  // The very surest few are too few to say much, and would set the scale.
  const x = [...new Set(arms.flatMap((arm) => arm.coverage.map(([at]) => at)))].filter((at) => at >= 0.05).sort((a, b) => a - b);
  const lines = arms.map((arm) => {
    const known = new Map(arm.coverage.map(([at, value]) => [at, value]));
    return { label: stageTitle(arm.name), values: x.map((at) => known.get(at) ?? null), color: stageColor(arm.name) };
  });
  const low = Math.min(...lines.flatMap((line) => line.values.filter((value) => value !== null)));
  const percent = (value) => `${Math.round(value * 100)}%`;
  const figure = chart({ x, lines, height: 264, yRange: [Math.max(0, Math.floor(low * 10) / 10 - 0.02), 1.01], xRange: [0, 1], format: (v) => v.toFixed(2), xFormat: percent, xLabel: "clips answered, the surest first", xName: "answered" });
  return card("Selective accuracy", "accuracy on the clips that it answers, if it may leave the others to a person", figure, legend(lines), alone ? "full" : "wide");
}

export function confusion(data, pick) {
  const arms = data.arms.filter((arm) => arm.evaluation.num_samples);
  if (!arms.length) return null;
  const few = data.run.labels.length <= 10;
  const main = arms.filter(isMain);
  const shown = few ? main : [];
  const rest = arms.filter((arm) => !shown.includes(arm));
  const box = el("div", { class: few ? "grid matrices" : "" }, shown.map((arm) => matrix(arm, pick)));
  const extra = el("div", { class: few ? "grid matrices" : "" });
  const select = el("select", { id: "confusion-arm" });
  const first = few ? "" : main.at(-1)?.name || arms.at(-1).name;
  options(select, [...(few ? [["", "none"]] : []), ...rest.map((arm) => [arm.name, stageTitle(arm.name)])], first);
  const show = () => replace(extra, rest.filter((arm) => arm.name === select.value).map((arm) => matrix(arm, pick)));
  select.addEventListener("change", show);
  show();
  return section("confusion", "Confusion",
    "Rows are true labels, columns are answers; shade is the share of the row. Press a cell to see its clips.",
    box, rest.length > 0 && el("div", { class: "bar" }, el("label", { for: "confusion-arm" }, few ? "Also show" : "Stage or arm"), select), extra);
}

function matrix(arm, pick) {
  const { confusion: rows, label_names: names, accuracy } = arm.evaluation;
  const wide = names.length > 12;
  const unparsed = rows.some((row) => row.at(-1) > 0);
  const columns = [...names, ...(unparsed ? ["not parsed"] : [])];
  const cell = (value, row, at) => {
    const total = rows[row].reduce((a, b) => a + b, 0);
    const part = total ? value / total : 0;
    const answer = at < names.length ? names[at] : "";
    const text = `${names[row]} called ${answer || "nothing that can be parsed"}: ${value} of ${total}`;
    const props = { class: `cell${part > 0.8 ? " deep" : ""}${part > 0.62 ? " bright" : ""}${row === at ? " right" : ""}`, css: { "--share": `${Math.round(6 + part * 94)}%` }, title: text };
    if (!value) return el("td", { class: `cell none${row === at ? " right" : ""}`, title: text }, wide ? "" : "0");
    return el("td", props, arm.is_stage
      ? el("button", { type: "button", "aria-label": text, on: { click: () => pick(arm.name, names[row], answer || "(not parsed)") } }, wide ? "" : value)
      : wide ? "" : value);
  };
  return card(stageTitle(arm.name), `accuracy ${share(accuracy)}`,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Confusion matrix of ${stageTitle(arm.name)}` },
      el("table", { class: wide ? "matrix wide" : "matrix" },
        el("thead", {}, el("tr", {}, el("td", { class: "corner" }), columns.map((name) => el("th", { scope: "col" }, el("span", {}, name))))),
        el("tbody", {}, names.map((name, row) => el("tr", {}, el("th", { scope: "row" }, name), columns.map((_, at) => cell(rows[row][at], row, at))))))));
}
