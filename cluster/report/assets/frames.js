// A clip's sampled frames: one picture holds them all, side by side.
import { el } from "./dom.js";

const pictures = new Map();

function picture(strip) {
  if (!pictures.has(strip)) {
    const image = new Image();
    image.src = strip.picture;
    pictures.set(strip, image.decode().then(() => image));
  }
  return pictures.get(strip);
}

function paint(canvas, strip, at) {
  return picture(strip).then((image) => {
    const { width, height } = strip;
    canvas.getContext("2d").drawImage(image, at * width, 0, width, height, 0, 0, width, height);
  }).catch(() => { canvas.title = "this picture cannot be shown"; });
}

function frame(strip, at, props) {
  const small = strip.width < 90 && strip.height < 90;
  const canvas = el("canvas", { width: strip.width, height: strip.height, ...props, class: `${props.class || ""}${small ? " pixels" : ""}` });
  if (at !== null) paint(canvas, strip, at);
  return canvas;
}

const lazy = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    lazy.unobserve(entry.target);
    paint(entry.target, entry.target.strip, entry.target.at);
  }
}, { rootMargin: "200px" });

export function thumb(strip) {
  if (!strip || !strip.picture) return el("span", { class: "thumb none", "aria-hidden": "true" }, "no clip");
  const canvas = frame(strip, null, { class: "thumb", "aria-hidden": "true" });
  canvas.strip = strip;
  canvas.at = Math.floor(strip.times_s.length / 3);
  lazy.observe(canvas);
  return canvas;
}

export function filmstrip(strip) {
  if (!strip.picture) return { node: el("p", { class: "callout" }, strip.missing || "no picture"), toggle() {} };
  const times = strip.times_s;
  const stage = frame(strip, 0, { class: "movie", role: "img", "aria-label": `The clip, ${times.length} frames` });
  const clock = el("span", { class: "clock" }, stamp(times[0]));
  const button = el("button", { type: "button", class: "play", "aria-pressed": "false" }, "Play");
  const cells = times.map((time, at) => {
    const cell = el("button", { type: "button", class: "frame", "aria-label": `Frame ${at + 1} of ${times.length} at ${stamp(time)}` },
      frame(strip, at, { "aria-hidden": "true" }), el("span", {}, stamp(time)));
    cell.addEventListener("click", () => { stop(); show(at); });
    cell.addEventListener("mouseenter", () => { if (!timer) show(at); });
    return cell;
  });
  let now = 0, timer = 0, held = false;
  function show(at) {
    now = at;
    paint(stage, strip, at);
    clock.textContent = stamp(times[at]);
    cells.forEach((cell, place) => cell.classList.toggle("now", place === at));
  }
  function next() {
    if (!stage.isConnected) { stop(); return; }
    const at = (now + 1) % times.length;
    show(at);
    const gap = at + 1 < times.length ? (times[at + 1] - times[at]) * 1000 : 700;
    timer = setTimeout(next, Math.min(600, Math.max(80, gap)));
  }
  function start() {
    if (!timer) timer = setTimeout(next, 60);
  }
  function stop() {
    clearTimeout(timer);
    timer = 0;
    held = false;
    button.setAttribute("aria-pressed", "false");
    button.textContent = "Play";
  }
  function toggle() {
    if (held) { stop(); return; }
    held = true;
    start();
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Pause";
  }
  button.addEventListener("click", toggle);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const movie = el("div", { class: "movie-box" }, stage, el("div", { class: "movie-bar" }, button, clock));
  stage.addEventListener("mouseenter", () => { if (!calm.matches) start(); });
  stage.addEventListener("mouseleave", () => { if (!held) stop(); });
  stage.addEventListener("click", toggle);
  show(0);
  const fewer = strip.num_sampled > times.length ? `${times.length} of ${strip.num_sampled} sampled frames` : `${times.length} sampled frames`;
  return { node: el("div", { class: "film" }, movie,
    el("div", { class: "film-right" }, el("p", { class: "note" }, `${fewer}, as the model is shown them`), el("div", { class: "strip" }, cells))), toggle };
}

function stamp(seconds) {
  if (seconds >= 60) return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
  return `${seconds.toFixed(2)} s`;
}
