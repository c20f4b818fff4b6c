// Elements, made of text nodes alone: nothing that comes from a trace, a file name or the service
// is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

// h("p", {class: "soft", onclick: f, hidden: true}, "text", child, [children], null)
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else if (name === "width-percent") element.style.width = `${value}%`;
    else if (name === "left-percent") element.style.left = `${value}%`;
    else element.setAttribute(name, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export function fill(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

const PATHS = {
  classify: "M4 6.5A1.5 1.5 0 0 1 5.5 5h9A1.5 1.5 0 0 1 16 6.5v11a1.5 1.5 0 0 1-1.5 1.5h-9A1.5 1.5 0 0 1 4 17.5zM16 10.5l4.5-2.5v8L16 13.5",
  decisions: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  review: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 14.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6z",
  compare: "M12 4v16M5 8h3M4 12h4M5 16h3M16 8h3M16 12h4M16 16h3",
  traces: "M5 4.5h14v15H5zM8.5 9h7M8.5 12.5h7M8.5 16h4",
  classifiers: "M12 3.5l8 4.2-8 4.2-8-4.2zM4 12l8 4.2 8-4.2M4 16.2l8 4.2 8-4.2",
  drop: "M12 15.5V4.5M7.5 9L12 4.5 16.5 9M4.5 15v3.5a1.5 1.5 0 0 0 1.5 1.5h12a1.5 1.5 0 0 0 1.5-1.5V15",
  check: "M5 12.5l4.5 4.5L19 7.5",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20a7.5 7.5 0 0 1 15 0",
  pass: "M5 12h14M13 6l6 6-6 6",
  alert: "M12 8v5M12 16.5h.01M12 3.5l9 16H3z",
  info: "M12 11v5.5M12 7.5h.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  empty: "M4 13.5h4.5l1.5 2.5h4l1.5-2.5H20M4 13.5L6.5 5h11L20 13.5V19H4z",
  key: "M14.5 13a4.5 4.5 0 1 0-4.2-2.9L3.5 17v3.5H7V18h2.5v-2.5l1.9-1.9c.9.3 2 .4 3.1-.6zM16 8h.01",
  play: "M8 5.5v13l10.5-6.5z",
  back: "M15 5.5L8.5 12l6.5 6.5",
  copy: "M9 9h10v11H9zM5 15V4h10",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const set = { viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": "1.7" };
  Object.assign(set, { "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" });
  for (const [key, value] of Object.entries(set)) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// A line of numbers, lowest at the bottom: points are [0, 1] from the top.
export function line(points, { width = 600, height = 56, label }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  svg.setAttribute("class", "line");
  const step = width / Math.max(1, points.length - 1);
  const at = points.map((y, n) => `${(n * step).toFixed(1)},${(2 + y * (height - 4)).toFixed(1)}`);
  const path = document.createElementNS(SVG, "polyline");
  path.setAttribute("points", at.length > 1 ? at.join(" ") : `0,${height / 2} ${width},${height / 2}`);
  svg.append(path);
  return svg;
}

export function say(text) {
  document.getElementById("live").textContent = text;
}

export function toast(text, { action, run, seconds = 5 } = {}) {
  const button = action && h("button", { class: "button small", onclick: () => (close(), run()) }, action);
  const element = h("div", { class: "toast" }, h("span", {}, text), button);
  const timer = setTimeout(() => close(), seconds * 1000);
  function close() {
    clearTimeout(timer);
    element.remove();
  }
  document.getElementById("toasts").replaceChildren(element);
  say(text);
  return close;
}

// A question in a dialog: resolves to the values of its fields, or null if it is closed.
export function ask({ title, text, fields = [], confirm, danger = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map((field) => [field.name, h("input", { class: "input", ...field.attributes })]);
    const values = () => Object.fromEntries(inputs.map(([name, input]) => [name, input.value.trim()]));
    const form = h(
      "form",
      { method: "dialog", class: "stack", onsubmit: () => dialog.close("yes") },
      h("h2", { id: "ask-title" }, title),
      text && h("div", { class: "soft anywhere" }, text),
      fields.map((field, n) => h("label", { class: "field" }, field.label, inputs[n][1])),
      h(
        "div",
        { class: "row", style: null },
        h("button", { class: `button ${danger ? "danger" : "main"}`, value: "yes" }, confirm),
        h("button", { class: "button quiet", type: "button", onclick: () => dialog.close() }, "Cancel"),
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": "ask-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? values() : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
