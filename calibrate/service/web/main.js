// The page: its places, who may see them, and whether the service is ready.

import { get, onTokenRefused, takeTokenFromAddress, token } from "./api.js";
import { classifiersView } from "./classifiers.js";
import { classifyView } from "./classify.js";
import { compareView } from "./compare.js";
import { decisionPage, decisionsView } from "./decisions.js";
import { fill, h, icon, say } from "./dom.js";
import { reviewView } from "./review.js";
import { tracesView } from "./traces.js";

const PLACES = [
  ["classify", "Classify", classifyView],
  ["decisions", "Decisions", decisionsView],
  ["review", "Review", reviewView],
  ["compare", "Compare", compareView],
  ["traces", "Traces", tracesView],
  ["classifiers", "Classifiers", classifiersView],
];
const READY_EVERY_MS = 10_000;
const main = h("main", { id: "main", tabindex: "-1" });
let leaving = new AbortController();

takeTokenFromAddress();
onTokenRefused(() => {
  token.drop();
  askForToken("The service does not know this token. It may have been revoked.");
});
addEventListener("hashchange", () => {
  const had = token.get();
  takeTokenFromAddress();
  if (token.get() !== had) drawShell();
  go();
});
addEventListener("pageshow", (event) => event.persisted && go()); // back from the browser's cache
if (token.get()) {
  drawShell();
  go();
} else askForToken();

function drawShell() {
  const places = PLACES.map(([name, title]) =>
    h("a", { class: "place", href: `#/${name}`, "data-place": name }, icon(name), h("span", {}, title)),
  );
  const skip = h("button", { class: "button unseen-until-focus", onclick: () => main.focus() }, "Skip to the content");
  const service = h("span", { class: "service" }, h("span", { class: "dot" }), h("span", { class: "words" }, "Connecting"));
  const leave = h("button", { class: "button quiet small", onclick: () => (token.drop(), location.reload()) }, "Sign out");
  fill(
    document.getElementById("app"),
    skip,
    h(
      "div",
      { class: "shell" },
      h(
        "div",
        { class: "side" },
        h("a", { class: "brand", href: "#/classify" }, h("img", { src: "/static/icon.svg", alt: "" }), "DeepIntuit"),
        h("nav", { class: "places", "aria-label": "Places" }, places),
        h("div", { class: "side-foot" }, service, leave),
      ),
      main,
    ),
  );
  watch(service);
  countReviews();
}

function go() {
  if (!token.get()) return;
  leaving.abort();
  leaving = new AbortController();
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const [place, title, view] = PLACES.find(([one]) => one === name) ?? PLACES[0];
  const context = { root: main, signal: leaving.signal, params: new URLSearchParams(search), path: rest.map(decodeURIComponent) };
  for (const one of document.querySelectorAll(".place")) {
    if (one.dataset.place === place) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  document.title = `${title} \u00b7 DeepIntuit`;
  main.replaceChildren();
  scrollTo(0, 0);
  (place === "decisions" && rest[0] ? decisionPage : view)(context);
  say(title);
}

function askForToken(fault = null) {
  leaving.abort();
  const input = h("input", { class: "input", type: "password", name: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-help", placeholder: "di_..." });
  const note = h("p", { class: "small bad", role: "alert", hidden: !fault }, fault ?? "");
  const enter = async (event) => {
    event.preventDefault();
    token.set(input.value.trim());
    try {
      await get("/v1/aliases");
    } catch (error) {
      if (error.status === 401 || error.status === 0) return void (note.hidden = false, (note.textContent = error.message), token.drop());
    }
    drawShell();
    go();
  };
  fill(
    document.getElementById("app"),
    h(
      "div",
      { class: "door" },
      h(
        "form",
        { class: "panel", onsubmit: enter },
        h(
          "div",
          { class: "inner stack" },
          h("span", { class: "brand" }, h("img", { src: "/static/icon.svg", alt: "" }), "DeepIntuit"),
          h("div", {}, h("h1", {}, "Enter a token"), h("p", { class: "soft", id: "token-help" }, "The service printed one when it was first started. It stays in this tab alone.")),
          h("label", { class: "field" }, "Token", input),
          note,
          h("button", { class: "button main" }, "Continue"),
        ),
      ),
    ),
  );
  input.focus();
}

// Asks a few times a minute whether the service answers; nothing while the tab is hidden.
async function watch(element) {
  while (element.isConnected) {
    if (!document.hidden) await showReady(element);
    await new Promise((done) => setTimeout(done, READY_EVERY_MS));
  }
}

async function showReady(element) {
  const [dot, words] = element.children;
  let [kind, text] = ["ready", "Ready"];
  try {
    const response = await fetch("/v1/health/ready", { cache: "no-store" });
    if (!response.ok) {
      const problem = await response.json();
      [kind, text] = ["waiting", problem.detail ?? problem.reason ?? "Not ready"];
    }
  } catch {
    [kind, text] = ["down", "No connection"];
  }
  dot.className = `dot ${kind}`;
  words.textContent = text;
  element.title = text;
}

async function countReviews() {
  const place = document.querySelector('[data-place="review"]');
  try {
    const stats = await get("/v1/reviews/stats");
    const open = stats.queue.waiting;
    place.querySelector(".count")?.remove();
    if (open > 0) place.append(h("span", { class: "count", "aria-label": `${open} waiting` }, open > 999 ? "999+" : open));
  } catch {
    // a token without the scope sees no count
  }
}
