// One clip or group: its frames, and the traces side by side.
import { el, number, share, signed, stageTitle } from "./dom.js";
import { filmstrip } from "./frames.js";
import { stagesOf } from "./filters.js";
import { stageColor } from "./theme.js";

export function detail(item, state, data) {
  const strip = item.strip === null || item.strip === undefined ? { picture: "", missing: item.video ? "no picture: this page was full" : "no archived trace names its clip" } : data.strips[item.strip];
  const film = filmstrip(strip);
  const body = state.kind === "clips" ? clipBody(item, state, data) : groupBody(item, state, data);
  const id = item.sample || item.id;
  const node = el("article", { class: "detail", "aria-label": `Clip ${id}` },
    el("header", {}, el("h3", {}, id), el("p", { class: "truth" }, "true label ", el("b", {}, item.label)),
      definition(item.label, data) && el("p", { class: "note" }, definition(item.label, data)),
      item.purpose && el("p", { class: "note" }, `${item.id} \u00b7 ${stageTitle(item.stage)} \u00b7 policy version ${item.version}`)),
    film.node, body);
  return { node, toggle: film.toggle };
}

function definition(label, data) {
  return data.run.labels.find(([name]) => name === label)?.[1];
}

function clipBody(clip, state, data) {
  const cards = stagesOf(data).filter((name) => clip.answers[name]).map((name) => answerCard(name, clip, state, data));
  const others = Object.entries(clip.others);
  return [el("div", { class: "cards" }, cards),
    others.length > 0 && el("details", { class: "others" }, el("summary", {}, `Head and control arms on this clip (${others.filter(([, [said]]) => said === clip.label).length} of ${others.length} right)`),
      el("ul", {}, others.map(([name, [said, sure]]) => el("li", {}, verdict(said, clip.label), el("span", {}, stageTitle(name)), sure > 0 && el("span", { class: "muted" }, share(sure))))))];
}

function answerCard(name, clip, state, data) {
  const said = clip.answers[name], { written } = said;
  return el("section", { class: `trace${name === state.stage ? " chosen" : ""}`, css: { "--at": `var(--${stageColor(name)})` }, "aria-label": stageTitle(name) },
    el("header", {}, el("h4", {}, stageTitle(name)), verdict(said.predicted, clip.label), said.confidence > 0 && el("span", { class: "muted", title: "confidence" }, share(said.confidence))),
    failures([...said.failures]),
    said.probabilities && bars(said.probabilities, clip.label, said.predicted, data),
    said.text !== null && [said.probabilities && el("p", { class: "note" }, "It was shown this trace of the policy:"), traceText(data.texts[said.text], state.q)],
    written && rewards(written), written && origin(written));
}

function groupBody(group, state, data) {
  const epsilon = 1e-9;
  const most = Math.max(epsilon, ...group.traces.map((trace) => Math.abs(trace.advantage ?? 0)));
  return [failures(group.failures),
    el("div", { class: "cards many" }, group.traces.map((trace, at) => el("section", { class: "trace", css: { "--at": `var(--${trace.answer === group.label ? "good" : "bad"})` }, "aria-label": `Trace ${at + 1}` },
      el("header", {}, el("h4", {}, `Trace ${at + 1}`), verdict(trace.answer, group.label)),
      failures(trace.failure ? [trace.failure] : []),
      traceText(data.texts[trace.text], state.q),
      rewards(trace),
      trace.advantage !== null && advantage(trace.advantage, most),
      origin(trace))))];
}

function verdict(said, label) {
  if (said === null || said === undefined) return el("span", { class: "verdict bad" }, "\u2717 not parsed");
  const right = said === label;
  return el("span", { class: `verdict ${right ? "good" : "bad"}` }, `${right ? "\u2713" : "\u2717"} ${said}`);
}

function bars(probabilities, label, predicted, data) {
  const rows = data.run.labels.map(([name], at) => [name, probabilities[at] ?? 0]);
  const shown = rows.length > 8 ? [...rows].sort((a, b) => b[1] - a[1]).slice(0, 8) : rows;
  return el("div", { class: "bars", role: "list", "aria-label": "Probabilities of the verdict" },
    shown.map(([name, value]) => el("div", { role: "listitem", class: name === predicted ? "said" : null },
      el("span", { class: "bar-name" }, name === label ? el("b", {}, name) : name),
      el("span", { class: "track" }, el("i", { css: { width: `${(value * 100).toFixed(1)}%` } })),
      el("span", { class: "bar-value" }, share(value)))),
    rows.length > shown.length && el("p", { class: "note" }, `${rows.length - shown.length} labels with less are not shown`));
}

function rewards(trace) {
  if (trace.reward === null) return null;
  const parts = Object.entries(trace.parts);
  return el("dl", { class: "parts" }, el("div", {}, el("dt", {}, "reward"), el("dd", {}, number(trace.reward))),
    parts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, number(value)))));
}

function advantage(value, most) {
  const part = (Math.abs(value) / most) * 50;
  return el("div", { class: "advantage" }, el("span", {}, "advantage"), el("span", { class: "track middle" },
    el("i", { class: value < 0 ? "below" : "above", css: { width: `${part}%`, [value < 0 ? "right" : "left"]: "50%" } })), el("b", {}, value === 0 ? "0" : signed(value, 2)));
}

function origin(trace) {
  const cut = trace.finish === "length";
  return el("p", { class: "note" }, `version ${trace.version} \u00b7 ${trace.tokens} tokens`, cut && el("span", { class: "tag" }, "cut by the token limit"));
}

function failures(found) {
  const once = [...new Map(found.map((one) => [JSON.stringify(one), one])).values()];
  return once.map((one) => el("p", { class: "failure" }, el("b", {}, `${one.kind} failed`), ` ${one.culprit}: ${one.reason}`));
}

const TAGS = /(<\/?(?:think|answer)>)/;

export function traceText(text, search) {
  const words = search.split(/\s+/).filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const found = words.length ? new RegExp(`(${words.join("|")})`, "i") : null;
  return el("p", { class: "text" }, text.split(TAGS).filter(Boolean).map((part) => {
    if (TAGS.test(part)) return el("span", { class: "markup" }, part);
    if (!found) return part;
    return part.split(found).map((piece, at) => (at % 2 ? el("mark", {}, piece) : piece));
  }));
}
