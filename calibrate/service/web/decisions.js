// Decisions: the history, and one of them whole.

import { get, query } from "./api.js";
import { decisionView } from "./decision.js";
import { add, fill, h, icon } from "./dom.js";
import { actionTag, failed, head, loaded, loading, state } from "./parts.js";
import { ago, chance, when } from "./words.js";

const PAGE = 30;

export function decisionsView({ root, params, signal }) {
  const list = h("div", {});
  const chosen = params.get("decision") ?? "";
  const filters = h(
    "select",
    { class: "input", "aria-label": "Which decisions", onchange: (event) => (location.hash = `#/decisions${query({ decision: event.target.value })}`) },
    [["", "All decisions"], ["auto", "Automatic"], ["review", "For review"], ["pass", "Passed"]].map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
  const search = h("input", { class: "input", type: "search", placeholder: "Id of a decision", "aria-label": "Id of a decision", autocomplete: "off" });
  const find = h("form", { onsubmit: (event) => (event.preventDefault(), search.value.trim() && (location.hash = `#/decisions/${encodeURIComponent(search.value.trim())}`)) }, search);
  fill(root, head("Decisions", "Everything that was answered, the newest first. Each can be recomputed.", filters, find), h("section", { class: "panel" }, list));
  loadPage({ list, chosen, signal });
}

async function loadPage({ list, chosen, signal }, cursor = null, body = null) {
  if (!body) fill(list, loading(6));
  try {
    const page = await get(`/v1/decisions${query({ limit: PAGE, decision: chosen, cursor })}`, { signal });
    const rows = page.decisions ?? page.items ?? [];
    if (!body && rows.length === 0) return void fill(list, none(chosen));
    const into = body ?? h("tbody", {});
    add(into, decisionRows(rows));
    list.querySelector(".more")?.remove();
    if (!body) fill(list, decisionTable(into));
    const next = page.next_cursor;
    if (next) list.append(h("div", { class: "more" }, h("button", { class: "button", onclick: () => loadPage({ list, chosen, signal }, next, into) }, "Show older ones")));
  } catch (error) {
    if (error.name !== "AbortError") fill(list, failed(error, () => loadPage({ list, chosen, signal })));
  }
}

const none = (chosen) =>
  chosen
    ? state("empty", "None like this", "No decision had this outcome yet.")
    : state("empty", "No decisions yet", "Classify a clip, and its decision is kept here.", h("a", { class: "button main", href: "#/classify" }, "Classify a clip"));

export const decisionTable = (body) =>
  h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "table decisions" },
      h("thead", {}, h("tr", {}, h("th", {}, "Clip"), h("th", {}, "Answer"), h("th", { class: "right" }, "Confidence"), h("th", {}, "Decision"), h("th", { class: "wide" }, "Version"), h("th", { class: "right wide" }, "When"))),
      body,
    ),
  );

export const decisionRows = (rows) => rows.map(row);

function row(one) {
  const href = `#/decisions/${encodeURIComponent(one.id)}`;
  return h(
    "tr",
    { class: "open", onclick: (event) => event.target.closest("a") || (location.hash = href) },
    h("td", {}, h("a", { class: "clip-name cut", href, title: one.clip?.name }, one.clip?.name ?? one.id)),
    h("td", { class: "anywhere" }, one.label),
    h("td", { class: "right" }, chance(one.confidence)),
    h("td", {}, actionTag(one.decision)),
    h("td", { class: "wide soft" }, `v${one.versions?.classifier ?? ""}`),
    h("td", { class: "right wide soft", title: when(one.created_at) }, ago(one.created_at)),
  );
}

export function decisionPage({ root, path, signal }) {
  const place = h("div", {});
  fill(root, h("a", { class: "back", href: "#/decisions" }, icon("back"), "Decisions"), place);
  loaded(place, () => get(`/v1/decisions/${encodeURIComponent(path[0])}`, { signal }), (record) => decisionView(record, { signal }));
}

