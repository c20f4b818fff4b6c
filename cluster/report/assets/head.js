// What was run, and what came out of it, in one look.
import { el, svg, count, duration, share, signed, stageTitle } from "./dom.js";
import { stageColor } from "./theme.js";

export function head(data) {
  const stages = data.arms.filter((arm) => arm.is_stage);
  return el("section", { id: "summary", class: "summary", "aria-labelledby": "title" },
    el("p", { class: "eyebrow" }, "DeepIntuit run report"),
    el("h1", { id: "title" }, data.run.name),
    state(data.run),
    stages.length > 0 && el("div", { class: "hero" }, headline(data, stages), forest(data, stages)),
    facts(data),
    data.notes.length > 0 && el("div", { class: "callout" }, el("b", {}, "Could not be read"),
      el("ul", {}, data.notes.map((line) => el("li", {}, line)))));
}

function state(run) {
  if (!run.stages_left.length) return null;
  const done = run.stages_done.map(stageTitle).join(", ") || "none yet";
  return el("p", { class: "callout" },
    `Finished stages: ${done}. Not finished: ${run.stages_left.map(stageTitle).join(", ")}. `,
    run.last_sign ? `Last line of metrics: ${run.last_sign}. ` : "No metrics yet. ",
    `This page was written at ${run.generated}.`);
}

function headline(data, stages) {
  const last = stages.at(-1);
  const said = last.evaluation;
  const step = data.tests.find((test) => test.is_stage_step && test.after === last.name);
  return el("div", { class: "headline" },
    el("div", { class: "big" }, share(said.accuracy)),
    el("p", { class: "big-text" }, `accuracy, ${stageTitle(last.name).toLowerCase()}`),
    el("p", {}, `95% interval ${share(said.accuracy_low)} to ${share(said.accuracy_high)} on `,
      `${count(said.num_samples)} ${last.split} clips`),
    step && el("p", {}, el("b", {}, signed(step.comparison.difference)), ` against ${stageTitle(step.before)} `,
      `(${signed(step.comparison.difference_low)} to ${signed(step.comparison.difference_high)}); `,
      `${step.comparison.flips.wrong_to_right} clips became right, ${step.comparison.flips.right_to_wrong} wrong`));
}

function forest(data, stages) {
  const row = 50, left = 158, right = 62, width = 760, top = 14;
  const height = top + stages.length * row + 32;
  const x = (value) => left + value * (width - left - right);
  const parts = [0, 0.25, 0.5, 0.75, 1].map((at) => [
    svg("line", { x1: x(at), x2: x(at), y1: top, y2: height - 30, class: "gridline" }),
    svg("text", { x: x(at), y: height - 12, class: "tick", "text-anchor": "middle" }, at.toString()),
  ]);
  if (data.majority !== null) {
    parts.push(svg("line", { x1: x(data.majority), x2: x(data.majority), y1: top - 4, y2: height - 30, class: "reference" }),
      svg("text", { x: x(data.majority) + 5, y: top + 6, class: "tick" }, `majority label ${share(data.majority)}`));
  }
  stages.forEach((arm, at) => {
    const y = top + row * (at + 0.5) + 6, said = arm.evaluation;
    const paint = { css: { "--at": `var(--${stageColor(arm.name)})` } };
    parts.push(
      svg("text", { x: left - 14, y: y + 5, class: "row-name", "text-anchor": "end" }, stageTitle(arm.name)),
      svg("line", { x1: x(said.accuracy_low), x2: x(said.accuracy_high), y1: y, y2: y, class: "interval", ...paint }),
      svg("circle", { cx: x(said.accuracy), cy: y, r: 7, class: "dot", ...paint }),
      svg("text", { x: width - right + 12, y: y + 5, class: "row-value" }, share(said.accuracy)));
  });
  const text = stages.map((arm) => `${stageTitle(arm.name)} ${share(arm.evaluation.accuracy)}`).join(", ");
  return el("figure", { class: "forest" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Accuracy of the stages: ${text}` }, parts),
    el("figcaption", {}, "Accuracy of each stage; bars are 95% intervals (Wilson)"));
}

function shortPath(path) {
  const parts = path.split("/");
  return parts.length > 4 ? `\u2026/${parts.slice(-3).join("/")}` : path;
}

function facts(data) {
  const { run } = data;
  const sizes = Object.entries(run.sizes).map(([name, size]) => `${count(size)} ${name}`).join(" \u00b7 ");
  const versions = Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(" \u00b7 ");
  const time = [run.seconds_stages && `stages ${duration(run.seconds_stages)}`, run.seconds_controls && `control arms ${duration(run.seconds_controls)}`];
  const rows = [
    ["Model", el("span", { title: run.model }, shortPath(run.model))],
    ["Seed", run.seed],
    ["Labels", `${run.labels.length}: ${run.labels.slice(0, 8).map(([name]) => name).join(", ")}${run.labels.length > 8 ? ", \u2026" : ""}`],
    ["Clips", sizes && `${sizes}${run.num_with_trace ? ` (${count(run.num_with_trace)} train clips with a teacher's trace)` : ""}`],
    ["Time", time.filter(Boolean).join(" \u00b7 ")],
    ["Started", run.started && `${run.started}${run.num_attempts > 1 ? `, in ${run.num_attempts} attempts` : ""}`],
    ["Peak memory", run.peak_memory_gb && `${run.peak_memory_gb.toFixed(1)} GB on the driver's node`],
    ["Traces written", data.num_traces ? count(data.num_traces) : null],
    ["Versions", versions],
    ["Report", run.generated],
  ];
  return el("dl", { class: "facts" }, rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== 0)
    .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
