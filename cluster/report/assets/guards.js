// Signs of reward hacking: a curve with its limits for each, what it says in words, and traces that show it.
import { el, section, number, stageKind, stageTitle } from "./dom.js";
import { plain } from "./curves.js";
import { traceText } from "./detail.js";

// Further lines beside a signal's own figure, and the words for all.
const LINES = {
  length_drift: [["guard/length_ratio", "length / first steps"], ["guard/length_reward_corr", "correlation with reward"]],
  format_only: [["guard/format_only", "format, and guessing"], ["guard/format_only_frac", "format kept, wrong"], ["guard/format_signal_frac", "signal from format alone"], ["guard/answer_kappa", "kappa of answers"]],
  one_label: [["guard/answer_entropy", "entropy of answers / labels"], ["guard/top_answer_frac", "top answer"], ["guard/top_label_frac", "top true label"]],
  identical_traces: [["guard/identical_wrong_frac", "all same, of wrong groups"], ["guard/identical_frac", "all same"], ["guard/distinct_frac", "distinct traces"]],
  label_in_prompt: [["guard/label_in_prompt", "name their label"]],
};

export function guards(data) {
  if (!data.guards.length) return null;
  return section("guards", "Guards", "Signs that the policy is paid for something else than right answers. A warning stands while a signal is at its limit or beyond for several steps in a row; it is a question to you, and ends nothing.",
    data.guards.map((watched) => training(watched, data)));
}

function training(watched, data) {
  const stage = data.curves.find((one) => one.name === watched.stage);
  const warned = watched.signals.filter((signal) => signal.spans.length);
  const title = data.guards.length > 1 && el("h3", {}, stageTitle(watched.stage));
  const body = [verdicts(watched.signals), el("div", { class: "grid" }, watched.signals.map((signal) => figure(stage, signal))), warned.map(examples)];
  if (warned.length || data.guards.length === 1 || stageKind(watched.stage).kind === "grpo") return [title, body];
  return el("details", {}, el("summary", {}, `${stageTitle(watched.stage)}: no warning`), body);
}

function verdicts(signals) {
  return el("ul", { class: "signals" }, signals.map((signal) => {
    const warned = signal.spans.length > 0;
    const [kind, mark] = warned ? ["bad", "\u26a0"] : signal.known ? ["good", "\u2713"] : ["muted", "\u2013"];
    return el("li", { "data-signal": signal.name }, el("span", { class: `verdict ${kind}` }, `${mark} ${signal.title}`),
      el("span", {}, `${when(signal)}${signal.says}.`));
  }));
}

function when(signal) {
  if (!signal.spans.length) return "";
  const steps = signal.spans.map(([first, last]) => (first === last ? `step ${first}` : `steps ${first} to ${last}`));
  const said = steps.length > 4 ? [...steps.slice(0, 3), `${steps.length - 3} more times`] : steps;
  return `Warned at ${said.join(", ")}${signal.stands ? ", to the end" : ", no longer at the end"}: `;
}

function figure(stage, signal) {
  const lines = LINES[signal.name].filter(([metric]) => metric in stage.kept.values).map(([metric, label]) => ({ metric, label, width: metric === signal.figure ? 2.5 : 1.2 }));
  if (!lines.some((line) => line.metric === signal.figure)) {
    return el("figure", { class: "card" }, el("figcaption", {}, el("span", { class: "card-title" }, signal.title)), el("p", { class: "empty" }, `No figure: ${signal.says}.`));
  }
  const node = plain(stage, { title: signal.title, unit: "per step", limits: signal.limits, zero: true }, lines, false);
  node.append(el("p", { class: "note limit" }, `Limit: ${signal.why}.`));
  return node;
}

function examples(signal) {
  if (!signal.examples.length) return null;
  return el("details", { class: "signal-examples", open: true }, el("summary", {}, `${signal.title}: traces that show it`),
    el("div", { class: "cards" }, signal.examples.map((one) => el("section", { class: "trace", css: { "--at": "var(--bad)" }, "aria-label": `Trace on ${one.sample_id}` },
      el("header", {}, el("h4", {}, one.sample_id), el("span", { class: "muted" }, `true label ${one.label}, answer ${one.answer ?? "not parsed"}`)),
      one.note && el("p", { class: "note" }, one.note),
      traceText(one.text, ""),
      one.reward !== null && el("dl", { class: "parts" }, [["reward", one.reward], ...Object.entries(one.parts)].map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, number(value))))),
      el("p", { class: "note" }, `${one.tokens} tokens`)))));
}
