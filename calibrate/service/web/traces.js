// Traces: what archives hold, a page at a time, and one trace whole beside the list.

import { get, query } from "./api.js";
import { add, fill, h, line } from "./dom.js";
import { failed, head, loaded, loading, state, trace } from "./parts.js";
import { bytes, fixed, whole } from "./words.js";

const PAGE = 50;
const FACETS = ["purpose", "split", "label"];

export async function tracesView({ root, params, signal }) {
  const body = h("div", { class: "stack" });
  fill(root, head("Traces", "What policies wrote and how it was judged: the archives that classifiers are fitted on."), body);
  await loaded(body, () => get("/v1/archives", { signal }), ({ archives }) => (archives.length > 0 ? browser(archives, params, signal) : noArchives()));
}

const noArchives = () =>
  state("empty", "No archives", "Serve a run, or name archives in the service's settings, and their traces are listed here.");

function browser(archives, params, signal) {
  const archive = archives.find((one) => one.name === params.get("archive")) ?? archives[0];
  const where = params.getAll("where");
  const go = (values) => (location.hash = `#/traces${query({ archive: archive.name, where, ...values })}`);
  const list = h("div", { class: "trace-list", "aria-label": "Traces" });
  const detail = h("div", { class: "trace-detail" }, state("traces", "Choose a trace", "Its text, reward and group are shown here."));
  const view = { archive, where, list, detail, signal, rows: [], chosen: null };
  if (archive.error) fill(list, failed({ title: "This archive cannot be read", message: archive.error }));
  else more(view);
  document.addEventListener("keydown", (event) => onKey(event, view), { signal });
  return h(
    "div",
    { class: "stack" },
    filters(archives, archive, where, go),
    h("p", { class: "soft small num" }, counts(archive)),
    h("div", { class: "panel trace-browser" }, list, detail),
  );
}

const counts = (one) =>
  one.error ? "" : `${whole(one.traces)} traces in ${whole(one.groups)} groups, ${whole(one.failed)} failed, ${whole(one.tokens)} tokens, ${bytes(one.bytes)}`;

function filters(archives, archive, where, go) {
  const choose = h("select", { class: "input", "aria-label": "Archive", onchange: (event) => go({ archive: event.target.value, where: [] }) }, archives.map((one) => h("option", { value: one.name, selected: one === archive }, one.name)));
  const facet = (name) => {
    const values = [...new Set((archive.counts ?? []).map((one) => one[name]))].sort();
    const active = where.find((word) => word.startsWith(`${name}=`))?.slice(name.length + 1).replace(/^"(.*)"$/, "$1");
    const set = (value) => go({ where: [...where.filter((word) => !word.startsWith(`${name}=`)), ...(value ? [`${name}=${quoted(value)}`] : [])] });
    return h("select", { class: "input", "aria-label": name, onchange: (event) => set(event.target.value) }, h("option", { value: "" }, `any ${name}`), values.map((value) => h("option", { value, selected: value === active }, value)));
  };
  const input = h("input", { class: "input mono", name: "where", placeholder: "reward>=1   text~door   finish_reason=length", autocomplete: "off", spellcheck: "false", "aria-label": "Filter: a column, a comparison, a value" });
  const enter = (event) => (event.preventDefault(), input.value.trim() && go({ where: [...where, ...input.value.trim().split(/\s{2,}/)] }));
  const words = where.map((word, place) => h("button", { class: "chip remove", title: "Remove this filter", "aria-label": `Remove the filter ${word}`, onclick: () => go({ where: where.filter((_, n) => n !== place) }) }, h("code", {}, word), " \u00d7"));
  return h("div", { class: "stack" }, h("div", { class: "filters" }, archives.length > 1 && choose, FACETS.map(facet), h("form", { class: "grow", onsubmit: enter }, input)), words.length > 0 && h("div", { class: "row" }, words));
}

// A value as the filter's grammar takes it: in quotes, unless it is plain.
const quoted = (value) => (/^[\w.-]+$/.test(value) && value !== "null" ? value : `"${value.replace(/["\\]/g, "\\$&")}"`);

async function more(view, cursor = null) {
  const { archive, where, list, signal } = view;
  list.querySelector(".more")?.remove();
  const wait = add(h("div", {}), [loading(cursor ? 2 : 8)]);
  list.append(wait);
  try {
    const page = await get(`/v1/traces${query({ archive: archive.name, where, limit: PAGE, cursor })}`, { signal });
    wait.remove();
    const rows = page.traces.map((one) => item(view, one));
    view.rows.push(...rows);
    list.append(...rows);
    if (view.rows.length === 0) list.append(state("empty", "No trace matches", "Remove a filter to see more."));
    if (page.next_cursor) list.append(h("div", { class: "more" }, h("button", { class: "button small", onclick: () => more(view, page.next_cursor) }, "More")));
    if (!view.chosen && rows.length > 0 && matchMedia("(min-width: 1000px)").matches) open(view, rows[0], { focus: false });
  } catch (error) {
    wait.remove();
    if (error.name !== "AbortError") list.append(failed(error, () => fill(list) && more(view, cursor)));
  }
}

function item(view, one) {
  const element = h(
    "button",
    { class: "trace-item", onclick: () => open(view, element, { focus: true }) },
    h("span", { class: "trace-item-top" }, h("span", { class: "cut" }, one.sample_id), reward(one)),
    h("span", { class: "trace-item-foot" }, h("span", { class: "cut" }, one.label), h("span", {}, one.purpose), h("span", { class: "num" }, `step ${one.step}`), h("span", { class: "num" }, `${one.num_tokens ?? 0} tokens`)),
  );
  element.trace = one;
  return element;
}

function reward(one) {
  if (one.trace_index === null) return h("span", { class: "tag failed" }, "failed");
  if (one.failure_kind) return h("span", { class: "tag failed" }, one.failure_kind);
  if (one.reward === null || one.reward === undefined) return h("span", { class: "tag" }, "not scored");
  return h("span", { class: "tag num" }, fixed(one.reward, 2));
}

function open(view, element, { focus }) {
  view.chosen?.removeAttribute("aria-current");
  view.chosen = element;
  element.setAttribute("aria-current", "true");
  element.scrollIntoView({ block: "nearest" });
  showTrace(view, element.trace.id, focus);
}

async function showTrace(view, id, focus) {
  view.wanted = id;
  const place = h("div", {});
  fill(view.detail, h("button", { class: "button quiet small trace-close", onclick: () => view.detail.classList.remove("on") }, "Back to the list"), place);
  if (focus) view.detail.classList.add("on");
  const path = `/v1/traces/${encodeURIComponent(view.archive.name)}/${id.split("/").map(encodeURIComponent).join("/")}`;
  await loaded(place, () => get(path, { signal: view.signal }), (one) => (view.wanted === id ? traceView(view, one) : null));
}

function traceView(view, one) {
  const parts = Object.entries(one.reward_parts ?? {}).map(([name, value]) => `${name} ${fixed(value, 2)}`);
  const facts = [
    ["Label", one.label], ["Reward", one.reward === null || one.reward === undefined ? null : fixed(one.reward, 3)],
    ["Parts", parts.join(", ")], ["Version", `${one.attempt}.${one.step}`], ["Purpose", one.purpose], ["Split", one.split],
    ["Ended by", one.finish_reason], ["Prompt", one.prompt_version && `version ${one.prompt_version}, ${whole(one.prompt_token_ids?.length)} tokens`],
    ["Frames", one.frame_indices?.length], ["Video", one.video], ["Text of the clip", one.sample_text],
  ];
  const failures = (one.group_failures ?? []).map((each) => `${each.kind}: ${each.reason}`);
  return h(
    "div",
    { class: "inner stack" },
    h("div", { class: "row apart" }, h("h2", { class: "anywhere" }, one.sample_id), reward(one)),
    h("p", { class: "small faint mono anywhere" }, one.group_id),
    one.text !== undefined && trace(one.text),
    sureness(one.logprobs),
    one.failure_reason && h("p", { class: "bad anywhere" }, `Not scored: ${one.failure_reason}`),
    failures.map((text) => h("p", { class: "bad anywhere" }, text)),
    one.group.length > 1 && siblings(view, one),
    h("dl", { class: "facts" }, facts.filter(([, value]) => value || value === 0).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
  );
}

function sureness(logprobs) {
  if (!logprobs || logprobs.length < 2) return null;
  const chances = logprobs.map((value) => Math.exp(Number.isFinite(value) ? value : -30));
  const lowest = Math.min(...chances);
  const words = `Probability of each of ${chances.length} tokens, from 1 above to 0 below; the least is ${fixed(lowest, 3)}`;
  return h("figure", { class: "sureness" }, line(chances.map((p) => 1 - p), { label: words }), h("figcaption", { class: "small faint" }, words));
}

function siblings(view, one) {
  const button = (each) => h("button", { class: "sibling num", "aria-current": each.id === one.id ? "true" : null, "aria-label": `Trace ${each.trace_index} of the group`, onclick: () => showTrace(view, each.id, true) }, each.reward === null ? "none" : fixed(each.reward, 2));
  return h("div", { class: "stack tight" }, h("h3", {}, `Its group: ${one.group.length} answers to one clip, by reward`), h("div", { class: "row" }, one.group.map(button)));
}

function onKey(event, view) {
  if (event.target.closest("input, select, textarea, dialog") || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "Escape") view.detail.classList.remove("on");
  if (event.key === "/") return void (event.preventDefault(), document.querySelector('input[name="where"]').focus());
  const step = { j: 1, k: -1 }[event.key];
  if (!step) return;
  const next = view.rows[view.rows.indexOf(view.chosen) + step];
  if (next) open(view, next, { focus: false });
}
