// The fleet: what limits a step, idle shares, each worker's life, what happened.
import { el, svg, section, count, duration, number, stageTitle } from "./dom.js";
import { plain, stacked } from "./curves.js";

const SHARE = (value) => `${Math.round(value * 100)}%`;
const LIMITS = ["generation", "reward", "learner", "weights", "other"];
const ADVICE = {
  generation: "More or faster rollout workers, shorter responses, or more groups in flight (max_staleness) make a step shorter; a faster learner does not.",
  reward: "The reward functions are what groups wait for: give them more processes, or make them faster.",
  learner: "Updates and logprobs fill the step: more or faster learner ranks make it shorter; more rollout workers do not.",
  weights: "Sending the weights fills the step: see the weights/ figures for which part of it.",
  other: "Neither side works: see the timeline for what goes on (checkpoints, the archive, a fleet that nobody serves in).",
};
const STATE_COLORS = { healthy: "c3", suspect: "c2", dead: "c6", restarting: "c5", stale: "c7", retired: "c8" };
const FIGURES = [
  { title: "Idle shares", unit: "of a step's time", names: [["rollouter/idle_ratio", "workers, mean"], ["rollouter/idle_ratio_max", "idlest worker"], ["trainer/idle_ratio", "learner ranks, mean"]], range: [0, 1.02], format: SHARE },
  { title: "Workers", unit: "by state, at the end of a step", names: ["healthy", "suspect", "dead", "restarting", "stale"].map((state) => [`fleet/state/${state}`, state]), zero: true, sparse: true },
  { title: "Effective training time", unit: "share of the wall clock so far", names: [["effective_training_time_ratio", "ratio"]], range: [0, 1.02], format: SHARE },
  { title: "Time lost", unit: "seconds of a step: heals, nobody serving", names: [["fleet/lost_s", "lost"]], zero: true, sparse: true },
  { title: "Deaths, restarts and heals", unit: "so far", names: [["fleet/num_worker_deaths", "workers died"], ["fleet/num_restarts", "workers restarted"], ["fleet/num_learner_deaths", "learner ranks died"], ["fleet/num_learner_heals", "learner healed"]], zero: true, sparse: true },
  { title: "Moved and dropped", unit: "so far", names: [["fleet/num_moved", "requests moved"], ["fleet/num_dropped", "groups dropped"]], zero: true, sparse: true },
];

export function fleet(data) {
  const found = data.fleet;
  if (!found) return null;
  return section("fleet", "Fleet", "What a step's time goes to, who was idle, and what happened to the rollout workers and learner ranks. Files in timeline/ show single steps in Perfetto (ui.perfetto.dev).",
    found.limits.map((facts) => limits(facts, data)), lives(found), ranks(found), events(found));
}

function limits(facts, data) {
  const stage = data.curves.find((one) => one.name === facts.stage);
  const [first, ...rest] = LIMITS.map((name) => [name, facts.shares[name]]).sort((a, b) => b[1] - a[1]).filter(([, value]) => value >= 0.005);
  const others = rest.map(([name, value]) => `${name} ${SHARE(value)}`).join(", ");
  const idle = [["workers", facts.worker_idle], ["learner ranks", facts.rank_idle]].filter(([, value]) => value !== null);
  const says = first && [el("b", {}, `${first[0]} limits it: ${SHARE(first[1])} of the time`), others && ` (${others}). `, ADVICE[first[0]]];
  return el("div", {},
    el("h3", {}, stageTitle(facts.stage)),
    el("p", { class: "limits" }, `The last ${facts.steps} steps: `, says),
    el("p", { class: "note" }, idle.map(([name, value], at) => `${at ? ", " : "Idle: "}${name} ${SHARE(value)}`),
      facts.effective !== null && `${idle.length ? "; " : ""}effective training time ratio ${number(facts.effective)}`, "."),
    el("div", { class: "grid" },
      stacked(stage, { title: "What limits a step", unit: "share of its time, stacked", range: [0, 1], format: SHARE }, LIMITS.map((name) => ({ metric: `limit/${name}`, label: name })).filter((line) => line.metric in stage.kept.values)),
      FIGURES.map((panel) => figure(stage, panel))));
}

function figure(stage, panel) {
  const known = panel.names.filter(([metric]) => metric in stage.kept.values)
    .filter(([metric]) => !panel.sparse || metric.endsWith("/healthy") || stage.kept.values[metric].some((value) => value));
  const unit = known.length === 1 && panel.names.length > 1 ? `${known[0][1]}, ${panel.unit}` : panel.unit;
  return known.length > 0 && plain(stage, { ...panel, unit }, known.map(([metric, label]) => ({ metric, label })), false);
}

function lives(found) {
  if (!found.workers.length) return null;
  const left = found.num_workers - found.workers.length;
  const used = [...new Set(found.workers.flatMap((worker) => worker.spells.map((spell) => spell.state)))];
  return el("div", {},
    el("h3", {}, "Rollout workers"),
    el("p", { class: "note" }, `Attempt ${found.attempt}, ${duration(found.seconds)}. Weight updates that went well are left out: a worker that takes new weights counts as healthy.`,
      left > 0 && ` The ${found.workers.length} to which most happened, of ${count(found.num_workers)}.`),
    el("div", { class: "legend" }, used.map((state) => el("span", {}, el("i", { class: "swatch", css: { "--at": `var(--${STATE_COLORS[state] || "c8"})` } }), state))),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rollout workers" }, el("table", { class: "figures" },
      el("thead", {}, el("tr", {}, ["Worker", "Life", "Now", "Restarts", "Idle", "Weights", "Node"].map((name) => el("th", { scope: "col", class: ["Restarts", "Idle"].includes(name) ? "num" : null }, name)))),
      el("tbody", {}, found.workers.map((worker) => el("tr", {},
        el("th", { scope: "row" }, worker.name), el("td", {}, life(worker, found.seconds)), el("td", {}, worker.state),
        el("td", { class: "num" }, worker.restarts), el("td", { class: "num" }, worker.idle === null ? "\u2013" : SHARE(worker.idle)),
        el("td", {}, worker.version || "\u2013"), el("td", {}, worker.node ? worker.node.slice(0, 12) : "\u2013")))))));
}

function ranks(found) {
  const known = Object.entries(found.ranks).sort((a, b) => b[1] - a[1]).slice(0, 64);
  return known.length > 1 && el("p", { class: "note" }, "Learner ranks, the idlest first: ", known.map(([name, value]) => `${name} ${SHARE(value)}`).join(", "), ".");
}

function life(worker, seconds) {
  const width = 420, scale = width / Math.max(seconds, 1e-9);
  const text = worker.spells.map((spell) => `${spell.state} from ${duration(spell.start)}`).join(", ");
  return svg("svg", { viewBox: `0 0 ${width} 14`, width, height: 14, role: "img", "aria-label": text || "no events" },
    worker.spells.map((spell) => svg("rect", { x: spell.start * scale, y: spell.state === "healthy" ? 4 : 1, height: spell.state === "healthy" ? 6 : 12, width: Math.max(1, (spell.end - spell.start) * scale), css: { fill: `var(--${STATE_COLORS[spell.state] || "c8"})` } },
      svg("title", {}, `${spell.state} (${spell.cause}), ${duration(spell.start)} to ${duration(spell.end)}`))));
}

function events(found) {
  if (!found.events.length) return null;
  const total = Object.values(found.counts).reduce((sum, value) => sum + value, 0);
  const kinds = Object.entries(found.counts).sort((a, b) => b[1] - a[1]).map(([kind, value]) => `${kind.replaceAll("_", " ")} ${count(value)}`).join(", ");
  return el("details", {}, el("summary", {}, `Events (${count(total)}): ${kinds}`),
    el("table", { class: "settings" }, el("tbody", {}, found.events.map(([time, words]) => el("tr", {}, el("th", { scope: "row" }, time), el("td", {}, words))))),
    el("p", { class: "note" }, "The last of them, UTC; requests that moved are only counted. All are in events.jsonl."));
}
