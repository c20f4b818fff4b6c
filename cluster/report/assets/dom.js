// Elements from plain values. Text only ever enters the page as text nodes.

export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("aria-")) { node.setAttribute(name, String(value)); continue; }
    if (value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "css") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}

export function replace(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

export function section(id, title, lead, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` },
    el("div", { class: "section-head" },
      el("h2", { id: `${id}-title` }, title),
      lead && el("p", { class: "lead" }, lead)),
    children);
}

export function options(select, pairs, chosen) {
  replace(select, pairs.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  select.value = chosen;
}

export function share(value) {
  return value === null || value === undefined ? "\u2013" : value.toFixed(3);
}

export function signed(value, digits = 3) {
  return `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(digits)}`;
}

export function count(value) {
  return value.toLocaleString("en-US");
}

export function number(value) {
  if (value === null || value === undefined) return "\u2013";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return count(Math.round(value));
  if (size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

const STAGES = new Map();

export function declareStages(stages) {
  for (const stage of stages) STAGES.set(stage.name, stage);
}

export function stageTitle(name) {
  return STAGES.get(name)?.label || name.replaceAll("_", " ");
}

// The kind of a stage, and its place among the stages of that kind.
export function stageKind(name) {
  const kind = STAGES.get(name)?.kind || "";
  const alike = [...STAGES.values()].filter((stage) => stage.kind === kind);
  return { kind, place: alike.findIndex((stage) => stage.name === name) };
}
