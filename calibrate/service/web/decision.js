// A decision, whole: what was answered, why it is automatic or goes to a person, and what the
// model wrote.

import { get, query } from "./api.js";
import { fill, h, icon, toast } from "./dom.js";
import { actionTag, bars, frames, notice, otherAnswer, panel, player, trace } from "./parts.js";
import { chance, fixed, seconds, when } from "./words.js";

const WORDS = { auto: "sure enough to need no person", review: "a person decides", pass: "by a policy, without an answer" };

export function decisionView(record, { file = null, signal } = {}) {
  return h(
    "article",
    { class: "decision stack", "aria-label": `Decision ${record.id}` },
    h("div", { class: "decision-top" }, h("div", { class: "stack" }, answerPanel(record), rationale(record, signal)), clipPanel(record, file, signal)),
    versionsPanel(record, signal),
  );
}

function answerPanel(record) {
  const words = WORDS[record.decision];
  const set = record.prediction_set ?? [];
  return h(
    "section",
    { class: "panel answer-panel" },
    h(
      "div",
      { class: "inner stack" },
      h(
        "div",
        { class: "answer-head" },
        h("div", {}, h("p", { class: "small faint" }, "Answer"), h("p", { class: "answer-label anywhere" }, record.label)),
        h("div", { class: "answer-side" }, h("p", { class: "small faint" }, "Confidence"), h("p", { class: "answer-label num" }, chance(record.confidence))),
      ),
      h("div", { class: "row" }, actionTag(record.decision), h("span", { class: "soft small" }, words), record.review_id && h("a", { href: "#/review", class: "small" }, "Open the review queue")),
      reasons(record),
      h("div", { class: "stack set" }, h("h3", {}, "Prediction set"), setOf(set)),
      h("h3", {}, "Calibrated probabilities"),
      bars(record.probabilities ?? {}, { set, ticks: ticksOf(record) }),
      policies(record),
    ),
  );
}

const setOf = (set) =>
  set.length > 0
    ? h("div", { class: "row" }, set.map((label) => h("span", { class: "chip" }, label)))
    : h("p", { class: "soft small" }, "Empty: no label is as probable as those of held-out clips were.");

function ticksOf(record) {
  const pairs = (record.policies ?? []).filter((one) => Number.isFinite(one.threshold)).map((one) => [one.label, one.threshold]);
  return Object.fromEntries(pairs);
}

function reasons(record) {
  const all = record.reasons ?? [];
  return all.length > 0 && h("ul", { class: "reasons" }, all.map((one) => h("li", {}, h("code", { class: "tag" }, one.code), h("span", { class: "anywhere" }, one.text))));
}

function policies(record) {
  const all = record.policies ?? [];
  if (all.length === 0) return null;
  const row = (one) => {
    const threshold = Number.isFinite(one.threshold) ? `${fixed(one.probability)} against a threshold of ${fixed(one.threshold)}` : `${fixed(one.probability)}, it has no threshold`;
    return h("li", {}, h("span", { class: "anywhere" }, h("b", {}, one.id), h("span", { class: "soft num" }, ` ${one.label} ${threshold}`)), one.fires ? actionTag(one.action) : h("span", { class: "tag" }, "does not fire"), h("span", { class: "why soft small anywhere" }, one.why));
  };
  return h("div", { class: "stack tight" }, h("h3", {}, "Policies"), h("ul", { class: "policies" }, all.map(row)));
}

function clipPanel(record, file, signal) {
  const clip = record.clip ?? {};
  const numbers = clip.frames ?? [];
  return h(
    "section",
    { class: "panel clip-panel" },
    h(
      "div",
      { class: "inner stack" },
      player({ file, hash: clip.video_hash, signal }),
      h("p", { class: "cut", title: clip.name }, clip.name),
      numbers.length > 0 && h("h3", {}, `${numbers.length} frames that the model saw`),
      numbers.length > 0 && frames(record.id, numbers, signal),
    ),
  );
}

function rationale(record, signal) {
  const control = h("div", {});
  if (record.control) fill(control, controlView(record, record.control));
  const text = record.trace ?? "";
  return h(
    "section",
    { class: "panel rationale" },
    h("div", { class: "panel-head" }, h("h2", {}, "The model's rationale")),
    h(
      "div",
      { class: "inner stack" },
      h("p", { class: "caveat" }, icon("info"), "What the model wrote before it answered. It reads like a reason, and need not be the cause of the answer: the control below asks the same about frames that show less."),
      otherAnswer(record),
      text ? trace(text) : h("p", { class: "soft" }, "There is no trace."),
      votes(record),
      control,
      !record.control && controlButtons(record, control, signal),
    ),
  );
}

function votes(record) {
  if (!record.votes) return null;
  const counts = Object.entries(record.votes).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  const words = counts.map(([label, count]) => `${label} ${count}`).join(", ") || "none that can be read";
  return h("p", { class: "small soft anywhere" }, `Sampled answers: ${words}`);
}

function controlButtons(record, place, signal) {
  const row = h("div", { class: "row" }, h("span", { class: "small soft" }, "Control:"));
  for (const [kind, words] of [["shuffled", "Shuffle the frames"], ["reversed", "Reverse them"], ["blank", "Blank them"]]) {
    row.append(h("button", { class: "button small", onclick: () => runControl(record, kind, place, row, signal) }, words));
  }
  return row;
}

async function runControl(record, kind, place, row, signal) {
  const buttons = [...row.querySelectorAll("button")];
  buttons.forEach((one) => (one.disabled = true));
  fill(place, h("p", { class: "row soft" }, h("span", { class: "spinner" }), `Asking the model about ${kind} frames`));
  try {
    const explained = await get(`/v1/decisions/${encodeURIComponent(record.id)}/explain${query({ control: kind })}`, { signal });
    fill(place, controlView(record, explained.control));
  } catch (error) {
    if (error.name !== "AbortError") fill(place, notice("bad", "alert", error.message));
  }
  buttons.forEach((one) => (one.disabled = false));
}

function controlView(record, control) {
  if (control.label === null) return notice("warn", "alert", `No answer about ${control.view} frames: ${control.failure}`);
  const words = control.label_changed
    ? `With ${control.view} frames the answer becomes ${control.label}: it depends on what they take away.`
    : `With ${control.view} frames the answer stays ${control.label}: ${control.meaning}.`;
  return h(
    "div",
    { class: "stack" },
    notice(control.label_changed ? "good" : "warn", control.label_changed ? "check" : "alert", words),
    bars(record.probabilities, { set: record.prediction_set, other: control.probabilities, names: ["the clip", `${control.view} frames`] }),
  );
}

function versionsPanel(record, signal) {
  const versions = record.versions ?? {};
  const time = record.seconds ?? {};
  const explained = h("div", {});
  const facts = [
    ["Decision", h("code", {}, record.id)],
    ["Made", when(record.created_at)],
    ["Classifier", `version ${versions.classifier}`],
    ["Policy weights", versions.policy],
    ["Calibrator", versions.calibrator && h("code", {}, String(versions.calibrator).slice(0, 16))],
    ["Clip", record.clip?.video_hash && h("code", {}, record.clip.video_hash.slice(0, 16))],
    ["Source", record.clip?.source],
    ["Window", record.clip?.window && `${record.clip.window[0]} s to ${record.clip.window[1]} s`],
    ["Queue", seconds(time.queue)],
    ["Engine", seconds(time.engine)],
    ["Total", seconds(time.total)],
  ];
  return panel(
    "How it was decided",
    null,
    h(
      "div",
      { class: "inner stack" },
      h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "num" }, value)))),
      h(
        "div",
        { class: "row" },
        h("button", { class: "button small", onclick: (event) => explain(record, {}, explained, event.currentTarget, signal) }, "Recompute"),
        h("button", { class: "button small", onclick: (event) => explain(record, { replay: true }, explained, event.currentTarget, signal) }, "Ask the engine again"),
        h("button", { class: "button small quiet", onclick: () => copy(record) }, icon("copy"), "Copy as JSON"),
      ),
      explained,
    ),
  );
}

async function explain(record, options, place, button, signal) {
  button.disabled = true;
  fill(place, h("p", { class: "row soft" }, h("span", { class: "spinner" }), "Deciding again"));
  try {
    fill(place, explanation(await get(`/v1/decisions/${encodeURIComponent(record.id)}/explain${query(options)}`, { signal })));
  } catch (error) {
    if (error.name !== "AbortError") fill(place, notice("bad", "alert", error.message));
  }
  button.disabled = false;
}

function explanation(explained) {
  const facts = [
    ["Probabilities", `softmax over labels of ${explained.formula}`],
    ["Prediction set", explained.prediction_set],
    ["Threshold", explained.threshold],
    ...explained.policies.map((one) => [`Policy ${one.id}, version ${one.version}`, `${one.promise}. ${one.threshold}`]),
    ["Decided by", explained.decided_by],
    ["Label that people gave", explained.outcome],
  ];
  return h(
    "div",
    { class: "stack explanation" },
    explained.equal
      ? notice("good", "check", "Recomputed from the stored evidence: every probability is equal, bit for bit.")
      : notice("bad", "alert", `Recomputed from the stored evidence, it differs: ${explained.differences.join("; ")}`),
    explained.replay && notice(explained.replay.same_label ? "good" : "warn", explained.replay.same_label ? "check" : "alert", replayWords(explained.replay)),
    h("dl", { class: "explained" }, facts.filter(([, text]) => text).map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", { class: "anywhere" }, text)))),
  );
}

const replayWords = (replay) => `${replay.same_label ? "The same answer" : `Another answer, ${replay.label}`}: ${replay.detail}.`;

async function copy(record) {
  try {
    await navigator.clipboard.writeText(JSON.stringify(record, null, 2));
    toast("Copied");
  } catch {
    toast("This browser does not let the page copy");
  }
}
