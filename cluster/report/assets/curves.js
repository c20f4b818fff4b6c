// Metrics over steps, one stage at a time. A metric that no panel names still gets one at the end.
import { el, section, options, replace, number, stageKind, stageTitle } from "./dom.js";
import { COLORS, card, chart, legend } from "./figures.js";

const MOST_LINES = 8;
// What the parts Guards and Fleet show.
const ELSEWHERE = /^(guard|limit|fleet|rollouter|trainer)\/|^effective_training_time_ratio$/;
const share = (value) => (value === 0 || value === 1 ? String(value) : value.toFixed(2));
const seconds = (value) => `${number(value)}`;

// names: exact metric names, or a pattern with one group that is the line's label.
const PANELS = [
  { title: "Validation", unit: "share of val clips", names: ["val/accuracy", "val/macro_f1", "val/balanced_accuracy"], labels: ["accuracy", "macro F1", "balanced accuracy"], range: [0, 1.02], format: share },
  { title: "Reward", unit: "per trace, mean", names: ["reward/mean", "reward/std", "val/reward/mean"], labels: ["mean", "std", "mean on val"], zero: true },
  { title: "Reward parts", unit: "per trace, mean", pattern: /^reward\/(.+)\/mean$/, zero: true },
  { title: "Accuracy per label", unit: "share of traces", pattern: /^label\/(.+)\/accuracy$/, range: [0, 1.02], format: share, average: true },
  { title: "Groups without signal", unit: "share of groups", names: ["reward/frac_zero_std"], labels: ["all rewards equal"], range: [0, 1.02], format: share },
  { title: "Response length", unit: "tokens", names: ["response_length/mean", "response_length/max", "response_length/min", "val/response_length/mean"], labels: ["mean", "max", "min", "mean on val"], zero: true },
  { title: "Truncated and failed", unit: "share", names: ["truncated_frac", "reward/failed_frac", "rollout/failed_groups_frac", "val/truncated_frac", "val/unparsed_frac", "val/failed_frac"], labels: ["truncated traces", "scores failed", "groups failed", "truncated on val", "no label on val", "failed on val"], zero: true, format: number, calm: [0, 0.05] },
  { title: "Seconds per step", unit: "seconds, by phase, stacked", pattern: /^timing_s\/(.+)$/, stack: "timing_s/step" },
  { title: "Negative log-likelihood", unit: "nats per token", names: ["nll", "val/nll"], labels: ["nll", "nll on val"], log: true },
  { title: "Policy loss", unit: "per token", names: ["policy_loss"], labels: ["loss"] },
  { title: "Entropy", unit: "nats per token", names: ["entropy"], labels: ["entropy"], zero: true },
  { title: "KL", unit: "nats per token", names: ["kl"], labels: ["kl"], zero: true, calm: [0, 0.001] },
  { title: "Gradient norm", unit: "before clipping", names: ["grad_norm"], labels: ["norm"], log: true },
  { title: "Learning rate", unit: "", names: ["learning_rate"], labels: ["learning rate"], zero: true },
  { title: "Clip fraction", unit: "share of tokens", pattern: /^clip_frac\/(.+)$/, zero: true, calm: [0, 0.01] },
  { title: "Parity", unit: "largest difference of logprobs", names: ["parity/max_logprob_diff", "parity/probe_max_logprob_diff"], labels: ["training rows", "probe after update"], log: true },
  { title: "Rollout vs trainer", unit: "difference of probabilities", names: ["rollout_probs_diff/max", "rollout_probs_diff/mean"], labels: ["max", "mean"], log: true },
  { title: "Importance of rollouts", unit: "ratio", names: ["rollout_is/mean", "rollout_is/capped_frac"], labels: ["mean", "share capped"], zero: true },
  { title: "Staleness", unit: "policy versions", names: ["staleness/mean", "staleness/max"], labels: ["mean", "max"], zero: true, calm: [0, 1] },
  { title: "Traces over an update", unit: "share of traces", names: ["off_policy/mixed_frac"], labels: ["weights changed while it was written"], range: [0, 1.02], format: share },
  { title: "Dropped and restarted", unit: "per step", names: ["off_policy/num_dropped_traces", "off_policy/num_restarted_traces", "rollout/num_dropped_groups"], labels: ["traces too old", "traces written anew", "groups that the fleet failed"], zero: true, calm: [0, 1] },
  { title: "Reward per label", unit: "per trace, mean", pattern: /^label\/(.+)\/reward$/, zero: true },
  { title: "Reward parts per label", unit: "per trace, mean", pattern: /^label\/(.+\/reward\/.+)$/, zero: true },
  { title: "Failures by reward function", unit: "share of traces", pattern: /^reward\/(.+)\/failed_frac$/, zero: true },
  { title: "Slow calls of reward functions", unit: "seconds, 99th percentile", pattern: /^reward\/(.+)\/latency_p99_s$/, zero: true },
  { title: "Usual calls of reward functions", unit: "seconds, median", pattern: /^reward\/(.+)\/latency_p50_s$/, zero: true },
  { title: "Processes of reward functions", unit: "started in the step", pattern: /^reward\/(.+)\/num_started$/, zero: true, calm: [0, 1] },
  { title: "Groups asked trace by trace", unit: "by reward function", pattern: /^reward\/(.+)\/num_split$/, zero: true, calm: [0, 1] },
  { title: "Reward parts on val", unit: "per trace, mean", pattern: /^val\/reward\/(.+)\/mean$/, zero: true },
  { title: "Spread of rewards", unit: "per trace", pattern: /^reward\/(.+)\/std$/, zero: true },
  { title: "Range of rewards", unit: "per step", names: ["reward/max", "reward/min"], labels: ["max", "min"], zero: true },
  { title: "Prompt length", unit: "tokens", names: ["prompt_length/mean", "prompt_length/max"], labels: ["mean", "max"], zero: true },
  { title: "Ends of traces", unit: "share of traces", pattern: /^finish_reason\/(.+)$/, range: [0, 1.02], format: share },
  { title: "Throughput", unit: "tokens per second", names: ["perf/throughput", "perf/rollout_tokens_per_s", "perf/train_tokens_per_s"], labels: ["whole step", "rollouts", "training"], zero: true },
  { title: "Cache hits", unit: "share", names: ["cache/clip_hit_rate", "cache/prefix_hit_rate"], labels: ["clips", "prompt tokens"], range: [0, 1.02], format: share },
  { title: "Skipped updates, engines out of service", unit: "count", names: ["update_skipped", "rollout/num_out_of_service"], labels: ["skipped updates", "engines out"], zero: true, calm: [0, 1] },
];

export function curves(data) {
  const found = data.curves.filter((stage) => stage.kept.steps.length);
  if (!found.length) return section("curves", "Training", null, el("p", { class: "empty" }, "No metrics yet: metrics.jsonl has no line."));
  const select = el("select", { id: "curve-stage" });
  const smooth = el("input", { type: "checkbox", id: "smooth", checked: true });
  const note = el("p", { class: "note", "aria-live": "polite" });
  const grid = el("div");
  const show = () => {
    const stage = found.find((one) => one.name === select.value);
    replace(note, describe(stage));
    replace(grid, panels(stage, smooth.checked));
  };
  const first = found.find((stage) => stageKind(stage.name).kind === "grpo") || found[0];
  options(select, found.map((stage) => [stage.name, `${stageTitle(stage.name)} (${stage.num_steps} steps)`]), first.name);
  select.addEventListener("change", show);
  smooth.addEventListener("change", show);
  show();
  return section("curves", "Training", "Each point is one step; pointing at one shows its values, and the same step in all charts.",
    el("div", { class: "bar" }, el("label", { for: "curve-stage" }, "Stage"), select,
      el("label", { class: "check", for: "smooth" }, smooth, "smooth (rolling mean, raw values faint)")),
    note, grid);
}

function describe(stage) {
  const parts = [];
  if (stage.kept.steps.length < stage.num_steps) {
    parts.push(`${stage.num_steps} steps, averaged in ${stage.kept.steps.length} spans; of a maximum, the maximum. `);
  }
  if (stage.outcome) parts.push(`Validation: ${stage.outcome}. `);
  for (const one of stage.resumed) parts.push(`Attempt ${one.attempt} took up at step ${one.step}. `);
  const lost = stage.superseded.steps.length;
  if (lost) parts.push(`${lost} steps were done again after an interruption; what they had been is drawn dashed.`);
  return parts;
}

function panels(stage, smooth) {
  const used = new Set(), quiet = [];
  const cards = PANELS.map((panel) => {
    const lines = linesOf(stage, panel);
    lines.forEach((line) => used.add(line.metric));
    if (panel.stack) used.add(panel.stack);
    if (!lines.length) return null;
    if (isZero(stage, lines)) {
      quiet.push([panel, lines]);
      return null;
    }
    return panel.stack ? stacked(stage, panel, lines) : plain(stage, panel, lines, smooth);
  });
  const rest = Object.keys(stage.kept.values).filter((name) => !used.has(name) && !ELSEWHERE.test(name) && name !== "val/num_clips");
  const others = rest.map((name) => plain(stage, { title: name, unit: "" }, [{ metric: name, label: name }], smooth));
  return [el("div", { class: "grid" }, cards, others),
    quiet.length > 0 && el("details", {}, el("summary", {}, `Zero at every step: ${quiet.map(([panel]) => panel.title.toLowerCase()).join("; ")}`),
      el("div", { class: "grid" }, quiet.map(([panel, lines]) => plain(stage, panel, lines, smooth))))];
}

function isZero(stage, lines) {
  return lines.every((line) => [...stage.kept.values[line.metric], ...(stage.superseded.values[line.metric] || [])].every((value) => !value));
}

function linesOf(stage, panel) {
  const names = Object.keys(stage.kept.values);
  if (panel.names) {
    return panel.names.map((metric, at) => ({ metric, label: panel.labels[at] })).filter((line) => names.includes(line.metric));
  }
  return names.map((metric) => [metric, panel.pattern.exec(metric)])
    .filter(([metric, match]) => match && metric !== panel.stack)
    .map(([metric, match]) => ({ metric, label: match[1] }));
}

export function plain(stage, panel, found, smooth) {
  const { lines: chosen, note } = few(stage, panel, found);
  const { x, places, again } = joined(stage);
  const lines = [];
  chosen.forEach((line, at) => {
    const values = onAxis(stage.kept.values[line.metric] || line.values, places, x.length);
    const tidy = (panel.log ? values.map((v) => (v > 0 ? v : null)) : values);
    const paint = COLORS[at % COLORS.length];
    const sparse = (line.metric || "").startsWith("val/"); // a point per validation, joined
    const softened = smooth && !sparse ? rolling(tidy) : tidy;
    if (smooth && !sparse && chosen.length < 4) lines.push({ label: line.label, values: tidy, color: paint, width: 1, faint: true });
    const lost = again.length && chosen.length < 4 && stage.superseded.values[line.metric];
    if (lost) lines.push({ label: `${line.label}, superseded`, unlisted: true, color: paint, width: 1.5, dash: [3, 3], values: onAxis(lost, again, x.length), spanGaps: false });
    lines.push({ label: line.label, values: softened, shown: softened, color: paint, width: line.width, dash: at >= COLORS.length ? [6, 3] : undefined, points: sparse || x.length < 3 });
  });
  for (const limit of panel.limits || []) lines.push({ label: `limit ${number(limit)}`, values: x.map(() => limit), color: "c6", width: 1.5, dash: [6, 4] });
  const flat = panel.calm && lines.every((line) => line.values.every((v) => v === null || (v >= panel.calm[0] && v <= panel.calm[1])));
  const figure = chart({
    x, lines, marks: stage.resumed.map((one) => ({ x: one.step, text: `attempt ${one.attempt}` })), sync: `curves-${stage.name}`,
    yRange: panel.range || (flat ? panel.calm : undefined), fromZero: panel.zero, log: panel.log && lines.some((line) => line.values.some((v) => v > 0)), format: panel.format,
  });
  // One curve has its panel's name, but for one of val clips.
  const named = chosen.length > 1 || panel.limits ? lines.length > 1 : chosen[0].label.endsWith(" on val");
  return card(panel.title, panel.unit, figure, [named && legend(lines), note && el("p", { class: "note" }, note)]);
}

// Of many labels: the mean of all, then the lowest in the end.
function few(stage, panel, found) {
  if (found.length <= MOST_LINES) return { lines: found };
  const last = (line) => stage.kept.values[line.metric].findLast((value) => value !== null) ?? Infinity;
  const lowest = [...found].sort((a, b) => last(a) - last(b)).slice(0, MOST_LINES - 1);
  const mean = stage.kept.steps.map((_, at) => {
    const known = found.map((line) => stage.kept.values[line.metric][at]).filter((value) => value !== null);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  });
  return { lines: [{ metric: found[0].metric, label: `mean of ${found.length}`, values: mean, own: true }, ...lowest].map(own),
    note: `The ${lowest.length} that end lowest of ${found.length}, and the mean of all.` };
}

function own(line) {
  return line.own ? { ...line, metric: "" } : line;
}

function joined(stage) {
  const x = [...new Set([...stage.kept.steps, ...stage.superseded.steps])].sort((a, b) => a - b);
  const at = new Map(x.map((step, place) => [step, place]));
  return { x, places: stage.kept.steps.map((step) => at.get(step)), again: stage.superseded.steps.map((step) => at.get(step)) };
}

function onAxis(values, places, length) {
  const out = new Array(length).fill(null);
  places.forEach((place, at) => { out[place] = values[at]; });
  return out;
}

function rolling(values) {
  const half = Math.max(1, Math.round(values.length / 40));
  return values.map((value, at) => {
    if (value === null) return null;
    const known = values.slice(Math.max(0, at - half), at + half + 1).filter((one) => one !== null);
    return known.reduce((a, b) => a + b, 0) / known.length;
  });
}

const PHASES = { update_actor: "update actor", update_weights: "update weights", gen: "generation" };

export function stacked(stage, panel, found) {
  const total = stage.kept.values[panel.stack];
  const phases = found.map((line) => ({ label: PHASES[line.label] || line.label.replaceAll("_", " "), values: stage.kept.values[line.metric].map((v) => v ?? 0) }));
  if (total) {
    const rest = total.map((value, at) => Math.max(0, (value ?? 0) - phases.reduce((sum, phase) => sum + phase.values[at], 0)));
    phases.unshift({ label: "rollouts and waiting", values: rest });
  }
  let below = stage.kept.steps.map(() => 0);
  const lines = phases.map((phase, at) => {
    below = below.map((value, place) => value + phase.values[place]);
    return { label: phase.label, values: below, shown: phase.values, color: COLORS[at % COLORS.length], fill: 1, width: 0.5 };
  }).reverse(); // the tallest first: those below are painted over it
  const figure = chart({ x: stage.kept.steps, lines, sync: `curves-${stage.name}`, fromZero: true, yRange: panel.range, format: panel.format || seconds,
    marks: stage.resumed.map((one) => ({ x: one.step, text: `attempt ${one.attempt}` })) });
  return card(panel.title, panel.unit, figure, legend(lines));
}
