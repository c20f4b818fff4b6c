// Classify: drop a video, or name one that the service can reach; see the decision.

import { get, post, upload } from "./api.js";
import { decisionView } from "./decision.js";
import { decisionRows, decisionTable } from "./decisions.js";
import { fill, h, icon, say } from "./dom.js";
import { classifiers, failed, head, player } from "./parts.js";
import { bytes, chance, percent } from "./words.js";

const AT_ONCE = 2;
const session = []; // clips of this tab, the newest first
let shown = null;
let current = null; // the view that is on the page

export function classifyView({ root, signal }) {
  const options = optionsForm(signal);
  const list = h("div", { class: "session", role: "list", "aria-label": "Clips of this session" });
  const stage = h("div", { class: "stage" });
  const view = (current = { list, stage, options, signal });
  const zone = (view.zone = dropZone(view));
  fill(root, head("Classify a clip", "A video in, a calibrated decision out, with the reasoning behind it."), h("div", { class: "stack" }, zone, list, stage));
  listen(root, zone, view);
  drawSession(view);
  show(view, shown);
}

function dropZone(view) {
  const input = h("input", { type: "file", accept: "video/*,.mkv,.avi,.webm,.mp4,.mov,.gif", multiple: true, class: "unseen", "aria-label": "Choose videos", onchange: () => (takeFiles(view, input.files), (input.value = "")) });
  const address = h("input", { class: "input", name: "address", placeholder: "/data/clip.mp4 or https://host/clip.mp4", autocomplete: "off", spellcheck: "false", "aria-label": "Path on the server, or address" });
  const enter = (event) => {
    event.preventDefault();
    const value = address.value.trim();
    if (!value) return address.focus();
    address.value = "";
    start(view, { name: value.split("/").pop() || value, address: value });
  };
  return h(
    "div",
    { class: "drop panel" },
    h(
      "div",
      { class: "drop-target" },
      h("span", { class: "drop-icon" }, icon("drop")),
      h("div", { class: "drop-words" }, h("p", { class: "drop-title" }, "Drop a video here"), h("p", { class: "soft small" }, "It goes to this service and nowhere else.")),
      input,
      h("button", { class: "button quiet small drop-open", onclick: () => view.zone.classList.remove("compact") }, "Path or options"),
      h("button", { class: "button main", onclick: () => input.click() }, "Choose a file"),
    ),
    h(
      "div",
      { class: "drop-more" },
      h("form", { class: "address", onsubmit: enter }, address, h("button", { class: "button" }, "Classify")),
      h("details", {}, h("summary", {}, "Options"), view.options.element),
    ),
  );
}

function optionsForm(signal) {
  const classifier = h("select", { name: "classifier" }, h("option", { value: "champion" }, "champion"));
  classifiers(signal).then(({ list, aliases }) => fill(classifier, choices(list, aliases)), () => {});
  const control = h(
    "select",
    { name: "control" },
    [["", "none"], ["shuffled", "shuffled frames"], ["reversed", "reversed frames"], ["blank", "blank frames"]].map(([value, text]) => h("option", { value }, text)),
  );
  const number = (name) => h("input", { type: "number", min: "0", step: "any", name, inputmode: "decimal" });
  const [from, to] = [number("from"), number("to")];
  const text = h("input", { name: "text", autocomplete: "off" });
  const element = h(
    "div",
    { class: "fields options" },
    [["Classifier", classifier], ["Control", control], ["From second", from], ["To second", to], ["Text of the clip", text]].map(([label, input]) => h("label", { class: "field" }, label, input)),
  );
  const values = () => ({
    classifier: classifier.value,
    control: control.value || null,
    window: from.value || to.value ? [Number(from.value || 0), Number(to.value || 1e6)] : null,
    text: text.value.trim() || null,
  });
  return { element, values };
}

export function choices(list, aliases) {
  const named = Object.entries(aliases).filter(([name, version]) => version && name !== "previous");
  const rest = list.filter((one) => !named.some(([, version]) => version === one.version));
  return [
    named.map(([name, version]) => h("option", { value: name }, `${name} (version ${version})`)),
    rest.map((one) => h("option", { value: String(one.version) }, `version ${one.version}`)),
  ];
}

function listen(root, zone, view) {
  const over = (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    zone.classList.add("over");
  };
  const leave = (event) => event.relatedTarget === null && zone.classList.remove("over");
  const drop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    takeFiles(view, event.dataTransfer.files);
  };
  const paste = (event) => event.clipboardData.files.length > 0 && takeFiles(view, event.clipboardData.files);
  for (const [name, call] of Object.entries({ dragover: over, dragleave: leave, drop, paste })) {
    document.addEventListener(name, call, { signal: view.signal });
  }
}

function takeFiles(view, files) {
  const jobs = [...files].map((file) => start(view, { name: file.name, file }));
  if (jobs.length > 0) show(view, jobs[0]);
}

function start(view, { name, file = null, address = null }) {
  const job = { name, file, address, status: "waiting", sent: 0, record: null, error: null, options: view.options.values(), began: Date.now() };
  session.unshift(job);
  show(view, job);
  pump();
  return job;
}

function pump() {
  const running = session.filter((job) => job.status === "running").length;
  const waiting = session.filter((job) => job.status === "waiting").reverse();
  waiting.slice(0, AT_ONCE - running).forEach((job) => run(job));
}

async function run(job) {
  Object.assign(job, { status: "running", began: Date.now(), error: null, busy: null });
  refresh(job);
  try {
    job.record = await ask(job, () => refresh(job));
    job.status = "done";
    say(`${job.name}: ${job.record.label}, ${chance(job.record.confidence)}`);
  } catch (error) {
    Object.assign(job, { status: "failed", error });
  }
  refresh(job);
  pump();
}

// The decision about a job's clip; redraw is called as the upload goes on.
export function ask(job, redraw) {
  const { classifier, control, window, text } = job.options;
  const patience = { onWait: (error) => ((job.busy = error.message), redraw()) };
  if (job.address) {
    const kind = /^https?:\/\//i.test(job.address) ? "url" : "path";
    const body = { video: { [kind]: job.address }, classifier, control, window, text };
    return post("/v1/classify", Object.fromEntries(Object.entries(body).filter(([, value]) => value !== null)), patience);
  }
  const form = new FormData();
  form.append("classifier", classifier);
  if (control) form.append("control", control);
  if (window) form.append("window", JSON.stringify(window));
  if (text) form.append("text", text);
  form.append("video", job.file, job.name);
  const onProgress = (part) => ((job.sent = part), redraw());
  return upload("/v1/classify", form, { ...patience, onProgress });
}

function refresh(job) {
  if (current.signal.aborted) return;
  drawSession(current);
  if (job === shown) show(current, job);
}

function drawSession(view) {
  const words = { waiting: "waiting", running: "running", failed: "failed" };
  const item = (job) =>
    h(
      "button",
      { class: "session-item", role: "listitem", "aria-current": job === shown ? "true" : null, onclick: () => show(view, job) },
      h("span", { class: "cut" }, job.name),
      job.record ? h("span", { class: "cut small soft" }, `${job.record.label} \u00b7 ${chance(job.record.confidence)}`) : h("span", { class: `small ${job.status === "failed" ? "bad" : "soft"}` }, words[job.status]),
    );
  fill(view.list, session.length > 1 && session.slice(0, 24).map(item));
}

function show(view, job) {
  shown = job;
  drawSession(view);
  if (view.job !== job) view.zone.classList.toggle("compact", Boolean(job));
  view.job = job;
  view.zone.querySelector(".drop-title").textContent = job ? "Drop another video" : "Drop a video here";
  if (!job) return void fill(view.stage, how(), recent(view.signal));
  if (job.status === "done") return void fill(view.stage, decisionView(job.record, { file: job.file, signal: view.signal }));
  if (job.status === "failed") return void fill(view.stage, h("div", { class: "panel" }, failed(job.error, () => run(job))));
  const progress = view.stage.querySelector(".working");
  if (progress?.job === job) return void update(progress, job);
  fill(view.stage, working(view, job));
}

function working(view, job) {
  const parts = { words: h("p", { class: "working-words" }), fill: h("i"), time: h("span", { class: "num soft small" }) };
  const element = h(
    "section",
    { class: "panel working", "aria-busy": "true" },
    h(
      "div",
      { class: "inner" },
      job.file && player({ file: job.file, signal: view.signal }),
      h("div", { class: "stack" }, h("h2", { class: "anywhere" }, job.name), h("div", { class: "row" }, h("span", { class: "spinner" }), parts.words, parts.time), h("div", { class: "progress", role: "progressbar", "aria-label": "Upload" }, parts.fill), h("p", { class: "soft small" }, job.file ? bytes(job.file.size) : job.address)),
    ),
  );
  Object.assign(element, { job, parts });
  update(element, job);
  const timer = setInterval(() => (element.isConnected ? update(element, job) : clearInterval(timer)), 200);
  return element;
}

function update({ parts }, job) {
  const uploading = job.file && job.sent < 1;
  parts.words.textContent = job.busy ? "The queue is full: waiting for a place" : uploading ? `Uploading, ${percent(job.sent, 0)}` : "Watching and reasoning";
  parts.time.textContent = `${((Date.now() - job.began) / 1000).toFixed(1)} s`;
  parts.fill.style.width = `${job.file ? 100 * job.sent : 100}%`;
}

function how() {
  const step = (name, title, text) => h("li", {}, icon(name), h("div", {}, h("h3", {}, title), h("p", { class: "soft small" }, text)));
  return h(
    "ol",
    { class: "how" },
    step("traces", "It reasons first", "The model watches sampled frames and writes its reasoning before an answer."),
    step("compare", "Then it is calibrated", "Probabilities come from clips that nothing learned from, with a set of labels that covers the truth as often as promised."),
    step("person", "Doubt goes to people", "A decision is automatic only where a tested threshold allows it. All others wait in the review queue."),
  );
}

// The newest decisions of the service, where there are any.
function recent(signal) {
  const place = h("div", {});
  get("/v1/decisions?limit=5", { signal }).then(
    (page) => page.decisions.length > 0 && fill(place, h("section", { class: "panel" }, h("div", { class: "panel-head" }, h("h2", {}, "Recent decisions"), h("a", { class: "small push", href: "#/decisions" }, "All decisions")), decisionTable(h("tbody", {}, decisionRows(page.decisions))))),
    () => {}, // a token that may not read sees none
  );
  return place;
}
