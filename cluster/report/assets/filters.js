// What the trace browser lists: state, its place in the address, and which items it lets through.
import { stageTitle } from "./dom.js";

export const KINDS = { clips: "Evaluated clips", train: "Training groups", calibration: "Calibration groups" };
export const UNPARSED = "(not parsed)";

const CLIP_SHOWS = {
  all: ["All", () => true],
  wrong: ["Wrong", (one) => !one.right],
  gained: ["Became right", (one) => one.before !== null && one.right && !one.before],
  lost: ["Became wrong", (one) => one.before !== null && !one.right && one.before],
  changed: ["Answer changed", (one) => one.changed],
  failed: ["Failed", (one) => one.failed],
  right: ["Right", (one) => one.right],
};

const GROUP_SHOWS = {
  all: ["All", () => true],
  signal: ["With signal", (one) => one.signal],
  wrong: ["All wrong", (one) => one.rights === 0],
  right: ["All right", (one) => one.rights === one.size],
  failed: ["Failed", (one) => one.failed],
};

export const START = { kind: "clips", id: "", show: "all", stage: "", label: "", answer: "", step: "", q: "" };

export function showsOf(state) {
  return state.kind === "clips" ? CLIP_SHOWS : GROUP_SHOWS;
}

export function stagesOf(data) {
  return data.arms.filter((arm) => arm.is_stage).map((arm) => arm.name);
}

// What a filter asks of an item, under the chosen stage.
export function factsOf(item, state, data) {
  return state.kind === "clips" ? clipFacts(item, state, data) : groupFacts(item);
}

function clipFacts(clip, state, data) {
  const stages = stagesOf(data).filter((name) => clip.answers[name]);
  const stage = clip.answers[state.stage] ? state.stage : stages.at(-1);
  const said = clip.answers[stage];
  const earlier = stages[stages.indexOf(stage) - 1];
  const before = earlier ? clip.answers[earlier] : null;
  return {
    stage, said, earlier,
    label: clip.label,
    answers: [said?.predicted ?? UNPARSED],
    right: said?.predicted === clip.label,
    before: before ? before.predicted === clip.label : null,
    changed: Boolean(before) && before.predicted !== said.predicted,
    failed: Object.values(clip.answers).some((one) => one.failures.length || one.written?.failure),
  };
}

function groupFacts(group) {
  const rewards = group.traces.map((trace) => trace.reward).filter((reward) => reward !== null);
  return {
    label: group.label,
    answers: group.traces.map((trace) => trace.answer ?? UNPARSED),
    signal: rewards.length > 1 && Math.max(...rewards) > Math.min(...rewards),
    rights: group.traces.filter((trace) => trace.answer === group.label).length,
    size: group.traces.length,
    failed: group.failures.length > 0 || group.traces.some((trace) => trace.failure),
  };
}

export function itemsOf(state, data) {
  if (state.kind === "clips") return data.clips;
  return data.groups.filter((group) => (group.purpose === "train") === (state.kind === "train"));
}

// Items under all filters but `show`, then under that one, too.
export function filtered(state, data) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const rest = itemsOf(state, data)
    .map((item) => ({ item, facts: factsOf(item, state, data) }))
    .filter(({ item, facts }) => (!state.label || facts.label === state.label)
      && (!state.answer || facts.answers.includes(state.answer))
      && (!state.step || item.version === state.step)
      && words.every((word) => haystack(item, data).includes(word)));
  const shows = showsOf(state);
  const counts = Object.fromEntries(Object.entries(shows).map(([name, [, test]]) => [name, rest.filter(({ facts }) => test(facts)).length]));
  return { counts, found: rest.filter(({ facts }) => (shows[state.show] || shows.all)[1](facts)) };
}

const haystacks = new WeakMap();

function haystack(item, data) {
  if (!haystacks.has(item)) {
    const traces = item.traces || Object.values(item.answers);
    const parts = [item.id, item.sample, item.label, item.video?.split("/").pop(), // a folder is that of all
      ...traces.flatMap((one) => [one.predicted, one.answer, one.text === null ? "" : data.texts[one.text], one.failure?.reason, ...(one.failures || []).map((f) => `${f.kind} ${f.reason}`)]),
      ...(item.failures || []).map((f) => `${f.kind} ${f.reason}`)];
    haystacks.set(item, parts.filter(Boolean).join("\n").toLowerCase());
  }
  return haystacks.get(item);
}

export function toHash(state) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value && value !== START[name]) said.set(name, value);
  const text = said.toString();
  return text ? `#traces?${text}` : "#traces";
}

export function fromHash(hash) {
  if (!hash.startsWith("#traces?")) return null;
  const said = new URLSearchParams(hash.slice("#traces?".length));
  const state = { ...START };
  for (const name of Object.keys(START)) if (said.has(name)) state[name] = said.get(name);
  if (!KINDS[state.kind]) state.kind = "clips";
  return state;
}

export function describeShow(state, data) {
  if (state.kind !== "clips") return "";
  const stages = stagesOf(data);
  const stage = state.stage || stages.at(-1);
  const earlier = stages[stages.indexOf(stage) - 1];
  return earlier ? `right, wrong and changed: ${stageTitle(stage)}, against ${stageTitle(earlier)}` : "";
}
