// Classifiers: versions and aliases, promote and roll back after a question; fits and their progress.

import { get, query, send, sleep } from "./api.js";
import { ask, fill, h, toast } from "./dom.js";
import { aliasesOf, classifiers, failed, head, loaded, loading, notice, panel, state } from "./parts.js";
import { ago, percent, when, whole } from "./words.js";

const FITS_EVERY_MS = 2000;
const GOES_ON = ["queued", "running", "paused"];

export function classifiersView({ root, signal }) {
  const versions = h("div", {});
  const shift = h("div", { role: "status" });
  const fits = h("div", {}, loading(3));
  const back = h("button", { class: "button", onclick: () => rollBack(view) }, "Roll back");
  const view = { versions, shift, fits, back, signal, aliases: {} };
  const begin = h("button", { class: "button main", onclick: () => startFit(view) }, "Start a fit");
  fill(
    root,
    head("Classifiers", "Versions never change; the aliases champion, challenger and previous move between them.", back, begin),
    h("div", { class: "stack" }, shift, panel("Versions", "the champion answers", versions), panel("Fits", "from archived traces", fits)),
  );
  showVersions(view).then(() => showShift(view));
  watchFits(view);
}

// The champion's alarm, if its served traces are not drawn like those that it was calibrated on.
async function showShift(view) {
  if (!view.aliases.champion) return;
  const shift = await get("/v1/classifiers/champion/shift", { signal: view.signal }).catch(() => ({ alarm: null }));
  if (!shift.alarm) return void fill(view.shift);
  const acknowledge = h("button", { class: "button small", onclick: () => acknowledgeShift(view, shift) }, "Acknowledge");
  fill(view.shift, notice("warn", "alert", h("b", {}, `Shift of version ${shift.classifier}. `), shift.alarm, h("p", { class: "row apart" }, "Until it is acknowledged, every decision goes to a person.", acknowledge)));
}

async function acknowledgeShift(view, shift) {
  const text = "Decisions may be automatic again, and a new test begins. Do it once somebody has looked at what changed.";
  if (!(await ask({ title: `Acknowledge the shift of version ${shift.classifier}?`, text, confirm: "Acknowledge" }))) return;
  await change(view, "Acknowledging", "Acknowledged: a new test begins", () => send("POST", `/v1/classifiers/${shift.classifier}/shift/acknowledge`));
}

function showVersions(view) {
  return loaded(view.versions, () => classifiers(view.signal, { fresh: true }), ({ list, aliases }) => {
    view.aliases = aliases;
    view.back.hidden = !aliases.previous;
    if (list.length === 0) return state("empty", "No classifiers yet", "A run's published classifier is registered when the service is started with it; a fit makes one, too.");
    return h("ul", { class: "versions" }, [...list].reverse().map((one) => versionRow(view, one)));
  });
}

function versionRow(view, one) {
  const names = aliasesOf(one.version, view.aliases);
  const figures = one.figures?.headline ?? {};
  const isChampion = names.includes("champion");
  return h(
    "li",
    { class: "version" },
    h("span", { class: "version-number num" }, one.version),
    h(
      "div",
      { class: "version-words" },
      h("div", { class: "row" }, h("b", { class: "anywhere" }, one.name || one.method), names.map((name) => h("span", { class: `tag ${name === "champion" ? "accent" : ""}` }, name))),
      h("p", { class: "soft small anywhere" }, `${one.method} \u00b7 policy ${one.policy_version} \u00b7 ${one.source ?? ""} \u00b7 `, h("span", { title: when(one.created_at) }, ago(one.created_at))),
    ),
    h("span", { class: "version-figure num" }, Number.isFinite(figures.accuracy) ? percent(figures.accuracy) : "", h("small", { class: "faint" }, Number.isFinite(figures.accuracy) ? "accuracy" : "")),
    h(
      "div",
      { class: "row version-acts" },
      !isChampion && h("button", { class: "button small", onclick: () => promote(view, one) }, "Promote"),
      !isChampion && !names.includes("challenger") && h("button", { class: "button small quiet", onclick: () => propose(view, one) }, "Propose"),
      view.aliases.champion && !isChampion && h("a", { class: "button small quiet", href: `#/compare${query({ a: view.aliases.champion, b: one.version })}` }, "Compare"),
    ),
  );
}

const reasonField = { name: "reason", label: "Reason, for the audit log", attributes: { required: true, maxlength: "500", autocomplete: "off", placeholder: "Better on this week's clips" } };

async function promote(view, one) {
  const champion = view.aliases.champion ?? null;
  const text = champion
    ? `It answers from now on in place of version ${champion}, which becomes previous. No request fails meanwhile; loading its engines may take a minute.`
    : "It answers from now on.";
  const values = await ask({ title: `Promote version ${one.version} to champion?`, text, fields: [reasonField], confirm: "Promote" });
  if (!values) return;
  await change(view, `Promoting version ${one.version}`, `Version ${one.version} is champion`, () =>
    send("POST", `/v1/classifiers/${one.version}/promote`, { expected_champion: champion, reason: values.reason }),
  );
}

async function rollBack(view) {
  const { champion, previous } = view.aliases;
  const values = await ask({ title: `Roll back to version ${previous}?`, text: `Version ${previous} answers again in place of version ${champion}.`, fields: [reasonField], confirm: "Roll back", danger: true });
  if (!values) return;
  await change(view, "Rolling back", `Version ${previous} is champion again`, () => send("POST", "/v1/aliases/champion/rollback", { expected_champion: champion, reason: values.reason }));
}

const propose = (view, one) =>
  change(view, "Proposing", `Version ${one.version} is challenger`, () => send("PUT", "/v1/aliases/challenger", { version: one.version }));

async function change(view, doing, done, call) {
  const close = toast(doing, { seconds: 600 });
  try {
    await call();
    close();
    toast(done);
  } catch (error) {
    close();
    toast(`${error.title}: ${error.message}`, { seconds: 12 });
  }
  if (view.signal.aborted) return;
  showVersions(view).then(() => showShift(view));
}

async function watchFits(view) {
  let drawn = null;
  while (!view.signal.aborted) {
    try {
      const answer = await get(`/v1/fits${query({ limit: 30 })}`, { signal: view.signal });
      const list = answer.fits;
      const text = JSON.stringify(list);
      if (text !== drawn) fill(view.fits, list.length > 0 ? h("ul", { class: "versions" }, list.map((one) => fitRow(view, one))) : noFits());
      if (drawn !== null && text !== drawn && list.some((one) => one.status === "succeeded")) showVersions(view);
      drawn = text;
    } catch (error) {
      if (error.name === "AbortError") return;
      fill(view.fits, failed(error));
      drawn = null;
    }
    await sleep(FITS_EVERY_MS, view.signal).catch(() => {});
  }
}

const noFits = () => state("empty", "No fits", "A fit makes a classifier from archived traces, beside the answers and on cores of its own.");

function fitRow(view, one) {
  const progress = one.progress ?? {};
  const goesOn = GOES_ON.includes(one.status);
  const known = goesOn && Number.isFinite(progress.total) && progress.total > 0;
  const kind = { succeeded: "auto", failed: "failed", running: "accent" }[one.status] ?? "";
  const made = (one.classifiers ?? []).map((each) => each.version);
  const words = [
    goesOn && progress.phase,
    known && `${whole(progress.done)} of ${whole(progress.total)}`,
    made.length > 0 && `registered version ${made.join(", ")}`,
    one.starts > 1 && `started ${one.starts} times`,
  ];
  const bar = { class: "progress", role: "progressbar", "aria-label": "Progress of the fit", "aria-valuenow": Math.round((100 * progress.done) / progress.total), "aria-valuemin": "0", "aria-valuemax": "100" };
  return h(
    "li",
    { class: "version fit" },
    h(
      "div",
      { class: "version-words stack tight" },
      h("div", { class: "row" }, h("b", { class: "anywhere" }, one.source), h("span", { class: `tag ${kind}` }, one.cancelling ? "cancelling" : one.status), one.watch && h("span", { class: "tag" }, "watches")),
      h("p", { class: "soft small num anywhere" }, [...words.filter(Boolean), ""].join(" \u00b7 "), h("span", { title: when(one.created_at) }, ago(one.created_at))),
      known && h("div", bar, h("i", { "width-percent": (100 * progress.done) / progress.total })),
      one.error && h("p", { class: "bad small anywhere" }, one.error.detail),
    ),
    goesOn && !one.cancelling && h("button", { class: "button small", onclick: () => cancel(one) }, "Cancel"),
  );
}

async function cancel(one) {
  if (!(await ask({ title: "Cancel this fit?", text: "Its work is removed, and no classifier comes of it.", confirm: "Cancel the fit", danger: true }))) return;
  try {
    await send("POST", `/v1/fits/${encodeURIComponent(one.id)}/cancel`);
  } catch (error) {
    toast(error.message, { seconds: 12 });
  }
}

async function startFit(view) {
  const archives = await get("/v1/archives", { signal: view.signal }).then((answer) => answer.archives.map((one) => one.name), () => []);
  const values = await ask({
    title: "Start a fit",
    text: archives.length > 0 ? `Archives here: ${archives.join(", ")}.` : "From a run, or an archive of one, under a root of the service.",
    fields: [{ name: "source", label: "Archive or path", attributes: { required: true, value: archives[0] ?? "", autocomplete: "off", spellcheck: "false" } }],
    confirm: "Start",
  });
  if (!values) return;
  try {
    await send("POST", "/v1/fits", { source: values.source });
    toast("The fit is queued");
  } catch (error) {
    toast(`${error.title}: ${error.message}`, { seconds: 12 });
  }
}
