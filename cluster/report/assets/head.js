// What was run, and what came out of it, in one look.
import { el, count, duration, share, signed, stageTitle } from "./dom.js";
import { stageColor } from "./theme.js";

export function head(data) {
  const stages = data.arms.filter((arm) => arm.is_stage);
  return el("section", { id: "summary", class: "summary", "aria-labelledby": "title" },
    el("p", { class: "eyebrow" }, "DeepIntuit run report"),
    el("h1", { id: "title" }, data.run.name),
    data.run.failure && el("p", { class: "callout failed" }, el("b", {}, "The run failed: "), data.run.failure),
    state(data.run),
    stages.length > 0 && el("div", { class: "hero" }, headline(data, stages), forest(data, stages)),
    data.warnings.length > 0 && el("div", { class: "callout failed" }, el("b", {}, "Learned nothing?"),
      el("ul", {}, data.warnings.map((line) => el("li", {}, line)))),
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
  const at = (value) => `${(value * 100).toFixed(2)}%`;
  const rows = stages.map((arm, place) => {
    const said = arm.evaluation, row = { "grid-row": String(place + 1) };
    return [el("span", { class: "row-name", css: row }, stageTitle(arm.name)),
      el("span", { class: "track-line", css: { ...row, "--at": `var(--${stageColor(arm.name)})` } },
        el("i", { class: "interval-bar", css: { left: at(said.accuracy_low), width: at(said.accuracy_high - said.accuracy_low) } }),
        el("i", { class: "interval-dot", css: { left: at(said.accuracy) } })),
      el("span", { class: "row-value", css: row }, share(said.accuracy))];
  });
  const lines = [0, 0.25, 0.5, 0.75, 1].map((value) => el("i", { class: "rule", css: { left: at(value) } }, el("span", {}, value)));
  if (data.majority !== null) lines.push(el("i", { class: "rule reference-line", css: { left: at(data.majority) } }, el("span", {}, `majority label ${share(data.majority)}`)));
  const text = stages.map((arm) => `${stageTitle(arm.name)} ${share(arm.evaluation.accuracy)}`).join(", ");
  return el("figure", { class: "forest" },
    el("div", { class: "forest-grid", role: "img", "aria-label": `Accuracy of the stages: ${text}` },
      el("div", { class: "forest-rules", css: { "grid-row": `1 / span ${stages.length}` } }, lines), rows),
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
  const made = run.calibration_traces;
  const time = [run.seconds_stages && `stages ${duration(run.seconds_stages)}`, run.seconds_controls && `control arms ${duration(run.seconds_controls)}`];
  const rows = [
    ["Model", el("span", { title: run.model }, shortPath(run.model))],
    ["Seed", run.seed],
    ["Labels", `${run.labels.length}: ${run.labels.slice(0, 8).map(([name]) => name).join(", ")}${run.labels.length > 8 ? ", \u2026" : ""}`],
    ["Clips", sizes && `${sizes}${run.num_with_trace ? ` (${count(run.num_with_trace)} train clips with a teacher's trace)` : ""}`],
    ["Time", time.filter(Boolean).join(" \u00b7 ")],
    ["Started", run.started && `${run.started}${run.num_attempts > 1 ? `, in ${run.num_attempts} attempts` : ""}`],
    ["Started from", run.started_from],
    ["Versions of the prompts", run.prompts],
    ["Peak memory", run.peak_memory_gb && `${run.peak_memory_gb.toFixed(1)} GB on the driver's node`],
    ["Traces written", data.num_traces ? count(data.num_traces) : null],
    ["Calibration traces", made && `${count(made.num_traces)} on ${count(made.num_clips)} clips, ${share(made.accuracy)} right`],
    ["Published classifier", data.classifiers.map((one) => one.method).join(", ")],
    ["Verdict repeats its trace", run.agreement !== null && `${share(run.agreement)} of the clips`],
    ["Versions", versions],
    ["Report", run.generated],
    ["Changed by a resume", run.changes.length > 0 && el("ul", {}, run.changes.map((line) => el("li", {}, line)))],
  ];
  const widths = { "Changed by a resume": "whole", "Versions": "twice" };
  return el("dl", { class: "facts" }, rows
    .filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== 0 && value !== false)
    .map(([name, value]) => el("div", { class: widths[name] || null }, el("dt", {}, name), el("dd", {}, value))));
}
