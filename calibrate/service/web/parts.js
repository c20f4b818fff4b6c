// Parts that several views are made of: states, bars, frames, the trace.

import { blobUrl, get } from "./api.js";
import { fill, h, icon } from "./dom.js";
import { ACTIONS, chance, fixed } from "./words.js";

export function head(title, text, ...tools) {
  return h(
    "div",
    { class: "head" },
    h("div", {}, h("h1", {}, title), text && h("p", {}, text)),
    tools.length > 0 && h("div", { class: "tools" }, tools),
  );
}

export const state = (name, title, text, ...buttons) =>
  h(
    "div",
    { class: "state" },
    icon(name),
    h("h2", {}, title),
    text && h("p", {}, text),
    buttons.length > 0 && h("div", { class: "row" }, buttons),
  );

export const failed = (error, again) =>
  h(
    "div",
    { role: "alert" },
    state("alert", error.title ?? "This went wrong", error.message, again && h("button", { class: "button", onclick: again }, "Try again")),
  );

export const notice = (kind, name, ...content) => h("div", { class: `notice ${kind}` }, icon(name), h("div", {}, content));

export const loading = (rows = 4) =>
  h(
    "div",
    { class: "inner stack", "aria-busy": "true", "aria-label": "Loading" },
    Array.from({ length: rows }, () => h("div", { class: "skeleton" })),
  );

export const panel = (title, note, ...content) =>
  h(
    "section",
    { class: "panel" },
    title && h("div", { class: "panel-head" }, h("h2", {}, title), note && h("span", { class: "note" }, note)),
    content,
  );

// Content of a view that is asked for: its skeleton unless there is some, then what make gives, or
// the problem.
export async function loaded(element, ask, make) {
  if (!element.hasChildNodes()) fill(element, loading());
  try {
    const value = await ask();
    fill(element, make(value));
    return value;
  } catch (error) {
    if (error.name === "AbortError") return null;
    fill(element, failed(error, () => loaded(element, ask, make)));
    return null;
  }
}

export function actionTag(action) {
  const [kind, name, word] = ACTIONS[action] ?? ["", "info", String(action)];
  return h("span", { class: `tag ${kind}` }, icon(name), h("span", {}, word));
}

// Bars of probabilities, the most probable first. other: a second answer to the same clip;
// ticks: thresholds by label.
export function bars(probabilities, { set = [], other = null, ticks = {}, most = 8, names = ["answer", "other"] } = {}) {
  const rows = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  const row = ([label, value]) => {
    const inside = set.includes(label);
    const words = `${label}: ${chance(value)}${inside ? ", in the prediction set" : ""}`;
    const second = other ? `; ${names[1]} ${chance(other[label])}` : "";
    return h(
      "li",
      { class: `bar ${inside ? "inside" : ""}` },
      h("span", { class: "bar-name", title: label }, label),
      h(
        "span",
        { class: "bar-track", role: "img", "aria-label": words + second },
        h("span", { class: "bar-fill", "width-percent": 100 * value }),
        other && h("span", { class: "bar-fill other", "width-percent": 100 * (other[label] ?? 0) }),
        Number.isFinite(ticks[label]) && h("span", { class: "bar-tick", "left-percent": 100 * ticks[label], title: `threshold ${fixed(ticks[label])}` }),
      ),
      h("span", { class: "bar-value" }, chance(value)),
    );
  };
  const list = h("ul", { class: `bars ${other ? "paired" : ""}` }, rows.slice(0, most).map(row));
  const rest = rows.slice(most);
  const more = rest.length > 0 && h("button", { class: "button quiet small", onclick: () => (list.append(...rest.map(row)), more.remove()) }, `${rest.length} more labels`);
  return h("div", { class: "stack" }, list, more, legend(rows, set, other, ticks, names));
}

function legend(rows, set, other, ticks, names) {
  const some = rows.some(([label]) => set.includes(label));
  return h(
    "div",
    { class: "legend" },
    some && h("span", {}, h("i"), "in the prediction set"),
    rows.some(([label]) => !set.includes(label)) && h("span", {}, h("i", { class: "outside" }), "outside of the prediction set"),
    other && h("span", {}, h("i", { class: "other" }), names[1]),
    Object.keys(ticks).length > 0 && h("span", {}, h("i", { class: "tick" }), "threshold of a policy"),
  );
}

// The trace as it was written, its tags faint and its answer marked.
export function trace(text) {
  const parts = String(text).split(/(<\/?think>|<answer>[\s\S]*?<\/answer>|<\|[\w-]+\|>)/);
  const shown = parts.filter((part) => part !== "").map((part) => {
    const answer = /^<answer>([\s\S]*?)<\/answer>$/.exec(part);
    if (answer) return [mark("<answer>"), h("span", { class: "answer" }, answer[1]), mark("</answer>")];
    return /^<(\/?think|\|[\w-]+\|)>$/.test(part) ? mark(part) : part;
  });
  return h("div", { class: "trace", tabindex: "0", role: "region", "aria-label": "Text of the trace" }, shown);
}

// That the trace ends with another answer than the classifier's label; null where it does not.
export function otherAnswer(record) {
  const answer = /<answer>([\s\S]*?)<\/answer>/.exec(record.trace ?? "")?.[1].trim();
  if (!answer || plain(answer) === plain(record.label)) return null;
  const words = `The trace answers ${answer}, the classifier ${record.label}: its label follows from the calibrated probabilities, not from the trace's last words.`;
  return notice("warn", "alert", h("span", { class: "anywhere" }, words));
}

const plain = (text) => text.normalize("NFC").toLowerCase().split(/\s+/).join(" ");
const mark = (text) => h("span", { class: "mark" }, text);

// Frames of a decision, asked for a few at a time, and shown larger when pressed.
export function frames(id, numbers, signal) {
  const note = h("p", { class: "small soft", hidden: true });
  const tiles = numbers.map((number, place) => {
    const picture = h("div", { class: "blank" });
    const tile = h("button", { class: "frame", disabled: true, "aria-label": `Frame ${number}, enlarge`, onclick: () => enlarge(urls, numbers, place) }, picture, h("span", {}, number));
    return { number, place, picture, tile };
  });
  const urls = new Map();
  const waiting = [...tiles];
  const next = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) {
      const url = await blobUrl(`/v1/decisions/${encodeURIComponent(id)}/frames/${one.number}.png`, { signal });
      urls.set(one.place, url);
      one.picture.replaceWith(h("img", { src: url, alt: "", draggable: "false" }));
      one.tile.disabled = false;
    }
  };
  const stop = (error) => {
    waiting.length = 0;
    if (error.name === "AbortError") return;
    for (const one of tiles) if (!urls.has(one.place)) one.tile.remove();
    note.hidden = false;
    note.textContent = `Frames cannot be shown: ${error.message}`;
  };
  for (let n = 0; n < 3; n += 1) next().catch(stop);
  signal?.addEventListener("abort", () => urls.forEach((url) => URL.revokeObjectURL(url)));
  return h("div", { class: "stack" }, h("div", { class: "frames" }, tiles.map((one) => one.tile)), note);
}

function enlarge(urls, numbers, first) {
  let place = first;
  const image = h("img", { alt: "" });
  const caption = h("span", { class: "small" });
  const show = (to) => {
    if (!urls.has(to)) return;
    place = to;
    image.src = urls.get(to);
    image.alt = `Frame ${numbers[to]}`;
    caption.textContent = `Frame ${numbers[to]}, ${to + 1} of ${numbers.length}. Arrows: the others, Escape: close`;
  };
  const dialog = h("dialog", { class: "light", "aria-label": "Frame", onclick: () => dialog.close(), onclose: () => dialog.remove() }, h("div", { class: "stack" }, image, caption));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(place + 1);
    if (event.key === "ArrowLeft") show(place - 1);
  });
  document.body.append(dialog);
  show(place);
  dialog.showModal();
}

// The clip: a file of this computer, or the kept upload when it is asked for.
export function player({ file = null, hash = null, signal, auto = false }) {
  const box = h("div", { class: "player" });
  const show = (url) => {
    const video = h("video", { src: url, controls: true, muted: true, playsinline: true, loop: true, preload: "auto", "aria-label": "The clip" });
    video.muted = true;
    video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    video.addEventListener("error", () => fill(box, h("p", { class: "small" }, "This browser cannot play the clip's format")));
    signal?.addEventListener("abort", () => URL.revokeObjectURL(url));
    fill(box, video);
  };
  const load = async () => {
    fill(box, h("span", { class: "spinner", "aria-label": "Loading the clip" }));
    try {
      show(await blobUrl(`/v1/clips/${encodeURIComponent(hash)}`, { signal }));
    } catch (error) {
      if (error.name !== "AbortError") fill(box, h("p", { class: "small" }, error.status === 404 ? "The clip is not kept here" : error.message));
    }
  };
  if (file) show(URL.createObjectURL(file));
  else if (auto) load();
  else fill(box, h("button", { class: "button", onclick: load }, icon("play"), "Load the clip"));
  return box;
}

let known = null;

// Registered classifiers and aliases, for choices.
export async function classifiers(signal, { fresh = false } = {}) {
  if (fresh || !known) {
    const { classifiers: list, aliases } = await get("/v1/classifiers", { signal });
    known = { list, aliases };
  }
  return known;
}

export function aliasesOf(version, aliases) {
  return Object.entries(aliases).filter(([, to]) => to === version).map(([name]) => name);
}
