// Review: clips that people must look at, one at a time, by keyboard. Reviews are leased, so that
// no two people have one; an answer is sent a few seconds after it is given, and can be undone
// until then.

import { get, send } from "./api.js";
import { fill, h, icon, say, toast } from "./dom.js";
import { bars, failed, frames, head, loading, notice, otherAnswer, player, state, trace } from "./parts.js";
import { percent } from "./words.js";

const AHEAD = 3;
const LEASE_S = 600;
const UNDO_S = 4;
const HIDE = "deepintuit-review-blind";

export function reviewView({ root, signal }) {
  const body = h("div", {});
  const count = h("span", { class: "soft small num" });
  const view = { body, count, signal, queue: [], pending: null, skipped: new Set(), answered: new Set(), unsent: 0, done: 0, item: null, note: null };
  fill(
    root,
    head("Review", "Clips that no policy decides alone. Your answer is kept as a label.", count, h("button", { class: "button quiet small", onclick: keys }, h("kbd", {}, "?"), "Keys")),
    body,
  );
  document.addEventListener("keydown", (event) => onKey(event, view), { signal });
  addEventListener("pagehide", () => leave(view), { signal });
  signal.addEventListener("abort", () => leave(view));
  next(view);
  showStats(view);
}

async function next(view) {
  view.item = null;
  if (view.queue.length === 0) {
    fill(view.body, h("div", { class: "panel" }, loading(6)));
    try {
      view.queue = await lease(view);
    } catch (error) {
      if (error.name !== "AbortError") fill(view.body, h("div", { class: "panel" }, failed(error, () => next(view))));
      return;
    }
  }
  if (view.signal.aborted) return void leave(view);
  const item = view.queue.shift();
  if (!item) return void fill(view.body, h("div", { class: "panel" }, empty(view)));
  show(view, item);
}

// The next ones that are neither skipped nor answered, which this person may still hold.
async function lease(view) {
  const n = Math.min(100, AHEAD + view.skipped.size + view.unsent);
  const { reviews } = await send("POST", "/v1/reviews/lease", { n, seconds: LEASE_S }, { signal: view.signal });
  const [again, items] = [reviews.filter((one) => view.skipped.has(one.id)), reviews.filter((one) => !view.skipped.has(one.id))];
  again.forEach((one) => release(one));
  return items.filter((one) => !view.answered.has(one.id)).slice(0, AHEAD);
}

function empty(view) {
  const { done } = view;
  const skipped = view.skipped.size;
  return state(
    "check",
    done > 0 ? `All done: ${done} reviewed` : "Nothing to review",
    "New clips come here when a policy leaves them to a person, and as a small sample of automatic decisions.",
    h("button", { class: "button", onclick: () => next(view) }, "Look again"),
    skipped > 0 && h("button", { class: "button", onclick: () => (view.skipped.clear(), next(view)) }, `Show ${skipped} skipped`),
  );
}

function show(view, item) {
  view.item = item;
  view.shown?.abort();
  view.shown = new AbortController();
  const signal = AbortSignal.any([view.signal, view.shown.signal]);
  const record = item.decision;
  const labels = Object.keys(record.probabilities ?? {});
  view.note = h("textarea", { class: "input", rows: "2", placeholder: "Note (optional)", "aria-label": "Note" });
  const blind = localStorage.getItem(HIDE) === "yes";
  fill(
    view.body,
    h(
      "div",
      { class: "review-layout" },
      h(
        "div",
        { class: "stack" },
        h("section", { class: "panel" }, h("div", { class: "inner stack" }, (view.player = player({ hash: record.clip?.video_hash, signal, auto: true })), h("p", { class: "cut soft small", title: record.clip?.name }, record.clip?.name), (record.clip?.frames ?? []).length > 0 && frames(record.id, record.clip.frames, signal))),
        h("section", { class: "panel review-trace" }, h("div", { class: "panel-head" }, h("h2", {}, "The model's rationale")), h("div", { class: "inner" }, blind ? hidden(view) : h("div", { class: "stack" }, otherAnswer(record), trace(record.trace ?? "")))),
      ),
      h("div", { class: "stack review-side" }, h("section", { class: "panel" }, h("div", { class: "inner stack" }, why(item), choicesOf(view, labels, record, blind), view.note)), h("section", { class: "panel" }, h("div", { class: "panel-head" }, h("h2", {}, "The model's answer"), h("button", { class: "button quiet small push", onclick: () => toggleBlind(view) }, h("kbd", {}, "M"), blind ? "Show" : "Hide")), h("div", { class: "inner" }, blind ? hidden(view) : bars(record.probabilities ?? {}, { set: record.prediction_set ?? [] })))),
    ),
  );
  say(`Review: ${record.clip?.name ?? item.id}`);
}

const hidden = (view) => h("p", { class: "soft small" }, "Hidden, so that it does not lead you. ", h("button", { class: "button quiet small", onclick: () => toggleBlind(view) }, "Show"));

function why(item) {
  const drawn = "it was decided automatically, and drawn at random to be looked at";
  const text = item.kind === "audit" ? drawn : item.decision.reasons.map((one) => one.text).join("; ");
  return notice("", "info", h("b", {}, "Why it is here: "), text || "no policy decides it alone");
}

function choicesOf(view, labels, record, blind) {
  const button = (label, place) =>
    h(
      "button",
      { class: `choice ${!blind && label === record.label ? "suggested" : ""}`, onclick: () => answer(view, label) },
      h("kbd", {}, place < 9 ? place + 1 : "\u00b7"),
      h("span", { class: "anywhere" }, label),
      !blind && h("span", { class: "num small faint" }, percent(record.probabilities[label], 0)),
    );
  return h(
    "fieldset",
    { class: "stack choices" },
    h("legend", { class: "unseen" }, "Your answer"),
    h("div", { class: "choice-list" }, labels.map(button)),
    !blind && h("div", { class: "row first" }, h("button", { class: "button main", onclick: () => answer(view, record.label) }, icon("check"), h("span", { class: "cut" }, `Confirm ${record.label}`), h("kbd", {}, "\u21b5"))),
    h(
      "div",
      { class: "row" },
      h("button", { class: "button", onclick: () => answer(view, null) }, "Cannot tell", h("kbd", {}, "X")),
      h("button", { class: "button", onclick: () => skip(view) }, "Skip", h("kbd", {}, "S")),
    ),
  );
}

function answer(view, label) {
  const item = view.item;
  if (!item) return;
  flush(view);
  const note = view.note.value.trim();
  const words = label === null ? "Cannot tell" : label === item.decision.label ? `Confirmed ${label}` : `Overturned to ${label}`;
  const close = toast(words, { action: "Undo (U)", run: () => undo(view), seconds: UNDO_S });
  const pending = { item, label, note, close };
  pending.timer = setTimeout(() => view.pending === pending && flush(view), UNDO_S * 1000);
  view.pending = pending;
  view.answered.add(item.id);
  view.unsent += 1;
  view.done += 1;
  next(view);
}

function undo(view) {
  if (!view.pending) return;
  const { item, timer, close, note } = view.pending;
  clearTimeout(timer);
  close();
  view.pending = null;
  view.answered.delete(item.id);
  view.unsent -= 1;
  view.done -= 1;
  if (view.item) view.queue.unshift(view.item);
  show(view, item);
  view.note.value = note;
  say("Undone");
}

async function flush(view, options = {}) {
  const { pending } = view;
  if (!pending) return;
  view.pending = null;
  clearTimeout(pending.timer);
  pending.close();
  try {
    await send("POST", `/v1/reviews/${encodeURIComponent(pending.item.id)}/complete`, { label: pending.label, note: pending.note }, options);
    if (!view.signal.aborted) showStats(view);
  } catch (error) {
    view.answered.delete(pending.item.id);
    view.done -= 1;
    toast(`${pending.item.decision.clip?.name ?? pending.item.id} was not saved: ${error.message}`, { seconds: 12 });
  } finally {
    view.unsent -= 1;
  }
}

async function skip(view) {
  const item = view.item;
  if (!item) return;
  view.skipped.add(item.id);
  await release(item);
  next(view);
}

const release = (item, options) => send("POST", `/v1/reviews/${encodeURIComponent(item.id)}/release`, undefined, options).catch(() => {}); // its lease expires by itself

function leave(view) {
  flush(view, { keepalive: true });
  for (const item of [view.item, ...view.queue.splice(0)]) if (item) release(item, { keepalive: true });
  view.item = null;
}

function toggleBlind(view) {
  localStorage.setItem(HIDE, localStorage.getItem(HIDE) === "yes" ? "no" : "yes");
  if (!view.item) return;
  const note = view.note.value;
  show(view, view.item);
  view.note.value = note;
}

async function showStats(view) {
  try {
    const stats = await get("/v1/reviews/stats", { signal: view.signal });
    const { rate } = stats.overturned.find((one) => one.kind === "review") ?? {};
    const { kappa } = stats.agreement;
    const parts = [`${stats.queue.waiting} waiting`, Number.isFinite(rate) && `${percent(rate, 0)} overturned`, Number.isFinite(kappa) && `kappa ${kappa.toFixed(2)}`];
    view.count.textContent = parts.filter(Boolean).join(" \u00b7 ");
  } catch {
    view.count.textContent = "";
  }
}

const KEYS = [["1 \u2013 9", "give the label of that number"], ["Enter", "confirm the model's answer"], ["X", "cannot tell"], ["S", "skip, for somebody else"], ["U", "undo the last answer"], ["N", "write a note"], ["M", "show or hide the model's answer"], ["Space", "play or pause"], ["?", "these keys"]];

function keys() {
  if (document.querySelector("dialog[open]")) return;
  const dialog = h("dialog", { "aria-label": "Keys", onclick: () => dialog.close(), onclose: () => dialog.remove() }, h("div", { class: "stack" }, h("h2", {}, "Keys"), h("dl", { class: "keys" }, KEYS.map(([key, words]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, words)))), h("button", { class: "button" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}

function onKey(event, view) {
  if (event.metaKey || event.ctrlKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  if (event.target.closest("textarea, input, select")) return void (event.key === "Escape" && event.target.blur());
  if (event.target.closest("button, a, video") && ["Enter", " "].includes(event.key)) return;
  const act = actionOf(event.key, view);
  if (!act) return;
  event.preventDefault();
  act();
}

function actionOf(key, view) {
  if (key === "?") return keys;
  if (key === "u") return () => undo(view);
  if (!view.item) return null;
  const record = view.item.decision;
  if (/^[1-9]$/.test(key)) {
    const label = Object.keys(record.probabilities ?? {})[Number(key) - 1];
    return label === undefined ? null : () => answer(view, label);
  }
  const video = view.player.querySelector("video");
  const acts = {
    Enter: localStorage.getItem(HIDE) === "yes" ? null : () => answer(view, record.label),
    x: () => answer(view, null),
    s: () => skip(view),
    n: () => view.note.focus(),
    m: () => toggleBlind(view),
    " ": video && (() => (video.paused ? video.play() : video.pause())),
  };
  return acts[key] ?? null;
}
