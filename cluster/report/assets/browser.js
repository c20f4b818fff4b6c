// The trace browser: filters above, a list, one item beside it. Its state is in the address.
import { el, section, options, replace, count, stageTitle } from "./dom.js";
import { detail } from "./detail.js";
import { KINDS, START, UNPARSED, describeShow, filtered, fromHash, itemsOf, showsOf, stagesOf, toHash } from "./filters.js";
import { thumb } from "./frames.js";

export function browser(data) {
  if (!data.clips.length && !data.groups.length) {
    return { node: section("traces", "Traces", null, el("p", { class: "empty" }, "No trace to show yet.")), pick() {}, key() {} };
  }
  return new Browser(data);
}

class Browser {
  constructor(data) {
    this.data = data;
    this.state = { ...START, kind: data.clips.length ? "clips" : itemsOf({ kind: "train" }, data).length ? "train" : "calibration" };
    this.kinds = el("div", { class: "segments", role: "group", "aria-label": "What to browse" });
    this.shows = el("div", { class: "chips", role: "group", "aria-label": "Which ones" });
    this.selects = Object.fromEntries(["stage", "label", "answer", "step"].map((name) => [name, el("select", { id: `filter-${name}` })]));
    this.fields = Object.fromEntries(Object.entries(this.selects).map(([name, select]) => [name, el("label", { for: select.id }, el("span", {}, { stage: "Stage", label: "True label", answer: "Answer", step: "Policy version" }[name]), select)]));
    this.search = el("input", { type: "search", id: "search", placeholder: "Search traces, ids, labels", "aria-label": "Search traces, ids, labels", autocomplete: "off", spellcheck: "false" });
    this.status = el("p", { class: "note", role: "status" });
    this.list = el("ul", { class: "list", role: "listbox", tabindex: 0, "aria-label": "Clips" });
    this.panel = el("div", { class: "panel", id: "panel" });
    this.reset = el("button", { type: "button", class: "ghost", on: { click: () => this.go({ ...START, kind: this.state.kind }) } }, "Clear filters");
    this.node = section("traces", "Traces", this.lead(),
      el("div", { class: "filters" }, this.kinds, this.shows,
        el("div", { class: "bar" }, Object.values(this.fields), el("label", { class: "grow", for: "search" }, el("span", {}, "Text"), this.search), this.reset), this.status),
      el("div", { class: "browser" }, this.list, this.panel));
    for (const [name, select] of Object.entries(this.selects)) select.addEventListener("change", () => this.go({ [name]: select.value }));
    this.search.addEventListener("input", () => this.go({ q: this.search.value }));
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) this.choose(Number(row.dataset.at));
    });
    this.items = [];
    this.toggle = () => {};
    const linked = fromHash(location.hash);
    if (linked) Object.assign(this.state, linked);
    this.draw();
    addEventListener("hashchange", () => {
      const next = fromHash(location.hash);
      if (!next) return;
      this.state = next;
      this.draw();
      this.node.scrollIntoView();
    });
  }

  lead() {
    const { clips, num_clips, groups, num_groups } = this.data;
    const training = groups.filter((group) => group.purpose === "train").length;
    const parts = [];
    if (clips.length) parts.push(`${count(clips.length)} of ${count(num_clips)} evaluated clips${clips.length < num_clips ? ", the most telling: failed, wrong and changed first, labels in turns" : ""}.`);
    if (training) parts.push(`${count(training)} of ${count(num_groups)} training groups, from steps spread over the run.`);
    return `${parts.join(" ")} Keys: j k next and previous, / search, space plays, ? help.`;
  }

  go(change) {
    const keep = { ...this.state, ...change };
    if (!("id" in change)) keep.id = this.state.id;
    this.state = keep;
    this.draw();
    this.remember();
  }

  remember() {
    try {
      history.replaceState(null, "", toHash(this.state));
    } catch {
      // A viewer that embeds the page may not let it write its address: then there is no link to copy.
    }
  }

  pick(stage, label, answer) {
    this.go({ ...START, stage, label, answer });
    this.node.scrollIntoView();
  }

  draw() {
    this.drawFilters();
    const { found, counts } = filtered(this.state, this.data);
    this.items = found;
    this.drawShows(counts);
    const total = itemsOf(this.state, this.data).length;
    const said = describeShow(this.state, this.data);
    this.status.textContent = `${count(found.length)} of ${count(total)} here${said ? ` \u00b7 ${said}` : ""}`;
    replace(this.list, found.map((one, at) => this.row(one, at)));
    const at = found.findIndex(({ item }) => item.id === this.state.id);
    this.select(Math.max(0, at), false);
  }

  drawFilters() {
    const { data, state } = this;
    const kinds = Object.entries(KINDS).map(([kind, text]) => [kind, text, itemsOf({ kind }, data).length]).filter(([, , size]) => size);
    replace(this.kinds, kinds.map(([kind, text, size]) => el("button", { type: "button", "aria-pressed": kind === state.kind, on: { click: () => this.go({ ...START, kind }) } }, text, el("small", {}, count(size)))));
    const stages = stagesOf(data), isClips = state.kind === "clips";
    if (isClips && !stages.includes(state.stage)) state.stage = stages.at(-1) || "";
    if (!(state.show in showsOf(state))) state.show = "all";
    const names = data.run.labels.map(([name]) => [name, name]);
    options(this.selects.stage, stages.map((name) => [name, stageTitle(name)]), state.stage);
    options(this.selects.label, [["", "any"], ...names], state.label);
    options(this.selects.answer, [["", "any"], ...names, [UNPARSED, "not parsed"]], state.answer);
    const versions = [...new Set(itemsOf(state, data).map((item) => item.version))];
    options(this.selects.step, [["", "any"], ...versions.filter(Boolean).map((version) => [version, version])], state.step);
    this.fields.stage.hidden = !isClips;
    this.fields.step.hidden = state.kind !== "train";
    if (this.search.value !== state.q) this.search.value = state.q;
    this.list.setAttribute("aria-label", KINDS[state.kind]);
  }

  drawShows(counts) {
    replace(this.shows, Object.entries(showsOf(this.state)).map(([name, [text]]) => el("button", { type: "button", "data-show": name, "aria-pressed": name === this.state.show,
      disabled: counts[name] === 0 && name !== this.state.show && name !== "all", on: { click: () => this.go({ show: name }) } }, text, el("small", {}, count(counts[name])))));
  }

  row({ item, facts }, at) {
    const strip = item.strip === null || item.strip === undefined ? null : this.data.strips[item.strip];
    const clip = this.state.kind === "clips";
    const right = clip ? facts.right : facts.rights === facts.size;
    const said = clip ? facts.said?.predicted ?? "not parsed" : `${facts.rights} of ${facts.size} right`;
    const flip = clip && facts.before !== null && facts.before !== facts.right ? (facts.right ? "became right" : "became wrong") : clip && facts.changed ? "answer changed" : "";
    return el("li", { role: "option", id: `row-${at}`, "data-at": at, "data-id": item.id, "aria-selected": "false" }, thumb(strip),
      el("span", { class: "row-text" }, el("b", {}, item.sample || item.id),
        el("span", { class: "row-line" }, `${item.label} \u2192 `, el("span", { class: clip || right ? (right ? "good" : "bad") : "mixed" }, clip ? `${right ? "\u2713" : "\u2717"} ${said}` : said)),
        (flip || facts.failed) && el("span", { class: "row-line" }, flip && el("span", { class: "tag" }, flip), facts.failed && el("span", { class: "tag bad" }, "failed")),
        !clip && el("span", { class: "row-line muted" }, `version ${item.version}`)));
  }

  choose(at) {
    this.select(at, true);
    this.remember();
  }

  select(at, moved) {
    const old = this.list.querySelector('[aria-selected="true"]');
    old?.setAttribute("aria-selected", "false");
    this.at = Math.min(at, this.items.length - 1);
    const one = this.items[this.at];
    if (!one) {
      this.list.removeAttribute("aria-activedescendant");
      replace(this.panel, el("p", { class: "empty" }, "Nothing here. ", "Clear the filters to see all."));
      return;
    }
    if (moved) this.state.id = one.item.id;
    const row = this.list.children[this.at];
    row.setAttribute("aria-selected", "true");
    this.list.setAttribute("aria-activedescendant", row.id);
    const box = this.list.getBoundingClientRect(), own = row.getBoundingClientRect();
    if (own.top < box.top) this.list.scrollTop -= box.top - own.top;
    else if (own.bottom > box.bottom) this.list.scrollTop += own.bottom - box.bottom;
    const shown = detail(one.item, this.state, this.data);
    this.toggle = shown.toggle;
    replace(this.panel, shown.node);
  }

  // True: the key was for us.
  key(name, event) {
    const inList = document.activeElement === this.list;
    const step = { j: 1, k: -1, ...(inList ? { ArrowDown: 1, ArrowUp: -1, Home: -1e9, End: 1e9 } : {}) }[name];
    if (step !== undefined) {
      const top = this.node.getBoundingClientRect();
      if (top.bottom < 100 || top.top > innerHeight - 100) this.node.scrollIntoView();
      if (this.items.length) this.choose(Math.max(0, Math.min(this.items.length - 1, this.at + step)));
      return true;
    }
    if (name === "ArrowRight" && inList) return this.key("j", event);
    if (name === "ArrowLeft" && inList) return this.key("k", event);
    if (name === "/") {
      this.search.scrollIntoView({ block: "center" });
      this.search.focus();
      this.search.select();
      return true;
    }
    if (name === " " && (inList || document.activeElement === document.body)) {
      this.toggle();
      return true;
    }
    return false;
  }
}
