// Charts: lines and stacked areas by uPlot, which is told our colours anew when the theme changes.
import { el, replace, number } from "./dom.js";
import { color, onTheme } from "./theme.js";

export const COLORS = ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"];
const pending = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    pending.get(entry.target)?.();
    pending.delete(entry.target);
  }
}, { rootMargin: "400px" });

export function whenSeen(node, draw) {
  pending.set(node, draw);
  seen.observe(node);
}

export function drawAll() {
  for (const [node, draw] of [...pending]) {
    seen.unobserve(node);
    pending.delete(node);
    draw();
  }
}

// spec: {x, lines: [{label, values, color, width, dash, fill, points, faint}], yRange, log, xLabel,
//        marks: [{x, text}], height, sync, format, xFormat, diagonal}
export function chart(spec) {
  const box = el("div", { class: "plot", css: { "min-height": `${spec.height || 190}px` } });
  let plot = null;
  const draw = () => {
    plot?.destroy();
    replace(box);
    const width = Math.floor(box.clientWidth);
    if (!width) return;
    plot = new uPlot(settings(spec, width, box), [spec.x, ...spec.lines.map((line) => line.values)], box);
    plot.root.setAttribute("aria-hidden", "true");
  };
  whenSeen(box, () => {
    draw();
    onTheme(() => box.isConnected && draw());
    new ResizeObserver(() => {
      const width = Math.floor(box.clientWidth);
      if (!width) return;
      if (!plot) draw();
      else if (Math.abs(plot.width - width) > 1) plot.setSize({ width, height: plot.height });
    }).observe(box);
  });
  return box;
}

function settings(spec, width, box) {
  const axis = { stroke: color("muted"), font: "11px system-ui, sans-serif", ticks: { show: false },
    grid: { stroke: color("grid"), width: 1 } };
  const format = spec.format || number;
  return {
    width,
    height: spec.height || 190,
    padding: [spec.marks?.length ? 16 : 10, 20, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: spec.sync ? { key: spec.sync } : undefined },
    scales: {
      x: { time: false, range: spec.xRange ? () => spec.xRange : undefined },
      y: spec.log ? { distr: 3 } : { range: (_, low, high) => spec.yRange || padded(low, high, spec.fromZero) },
    },
    axes: [
      { ...axis, size: 26, gap: 4, label: spec.xLabel, labelSize: 16, labelGap: 0,
        labelFont: "11px system-ui, sans-serif", space: 60, values: spec.xFormat ? (_, all) => all.map(spec.xFormat) : (_, all) => all.map((v) => Number.isInteger(v) ? String(v) : "") },
      { ...axis, size: 50, gap: 4, space: 34, values: (_, all) => all.map((v) => (v === null ? "" : format(v))) },
    ],
    series: [{}, ...spec.lines.map(series)],
    plugins: [tooltip(spec, format, box), marks(spec)],
  };
}

function series(line) {
  const stroke = color(line.color);
  return {
    label: line.label,
    stroke: line.faint ? withAlpha(stroke, 0.28) : stroke,
    width: line.width ?? 2,
    dash: line.dash,
    fill: line.fill ? withAlpha(stroke, line.fill) : undefined,
    spanGaps: line.spanGaps ?? true,
    points: { show: line.points ?? false, size: 5, fill: stroke },
  };
}

function padded(low, high, fromZero) {
  if (low === null || high === null) return [0, 1];
  const bottom = fromZero && low >= 0 ? 0 : low;
  const room = (high - bottom || Math.abs(high) || 1) * 0.06;
  return [bottom === 0 && low >= 0 ? 0 : bottom - room, high + room];
}

function tooltip(spec, format, box) {
  const tip = el("div", { class: "tip", hidden: true });
  return {
    hooks: {
      init: (plot) => {
        box.append(tip);
        plot.over.addEventListener("mouseleave", () => { tip.hidden = true; });
        plot.over.addEventListener("mouseenter", () => { box.dataset.hover = "1"; });
        plot.over.addEventListener("mouseleave", () => { delete box.dataset.hover; });
      },
      setCursor: (plot) => {
        const at = plot.cursor.idx;
        if (at === null || at === undefined || !box.dataset.hover) { tip.hidden = true; return; }
        const rows = spec.lines
          .map((line) => [line, (line.shown || line.values)[at]])
          .filter(([line, value]) => !line.faint && value !== null && value !== undefined);
        if (!rows.length) { tip.hidden = true; return; }
        replace(tip, el("b", {}, `${spec.xName || "step"} ${(spec.xFormat || String)(spec.x[at])}`),
          rows.map(([line, value]) => el("div", {}, swatch(line), el("span", {}, line.label), el("b", {}, format(value)))));
        tip.hidden = false;
        const left = plot.cursor.left + plot.over.offsetLeft;
        const flip = left > box.clientWidth / 2;
        tip.style.left = flip ? "" : `${left + 14}px`;
        tip.style.right = flip ? `${box.clientWidth - left + 14}px` : "";
      },
    },
  };
}

function marks(spec) {
  return {
    hooks: {
      drawClear: (plot) => {
        if (!spec.diagonal) return;
        line(plot, plot.valToPos(0, "x", true), plot.valToPos(0, "y", true), plot.valToPos(1, "x", true), plot.valToPos(1, "y", true));
      },
      draw: (plot) => {
        const { ctx, bbox } = plot;
        for (const mark of spec.marks || []) {
          const x = Math.round(plot.valToPos(mark.x, "x", true));
          if (x < bbox.left || x > bbox.left + bbox.width) continue;
          line(plot, x, bbox.top, x, bbox.top + bbox.height);
          ctx.save();
          ctx.fillStyle = color("muted");
          ctx.font = `${10 * devicePixelRatio}px system-ui, sans-serif`;
          ctx.textAlign = "left";
          ctx.textBaseline = "alphabetic";
          ctx.fillText(mark.text, x - 2 * devicePixelRatio, bbox.top - 4 * devicePixelRatio);
          ctx.restore();
        }
      },
    },
  };
}

function line(plot, x0, y0, x1, y1) {
  const { ctx } = plot;
  ctx.save();
  ctx.strokeStyle = color("muted");
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
  ctx.restore();
}

export function swatch(line) {
  return el("i", { class: line.dash ? "swatch dashed" : "swatch", css: { "--at": `var(--${line.color})` } });
}

export function legend(lines) {
  const shown = lines.filter((line) => !line.faint && !line.unlisted);
  return el("div", { class: "legend" }, shown.map((line) => el("span", {}, swatch(line), line.label)));
}

export function withAlpha(hex, alpha) {
  return hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
}

export function card(title, unit, figure, below, wide) {
  return el("figure", { class: `card ${wide || ""}` },
    el("figcaption", {}, el("span", { class: "card-title" }, title), unit && el("span", { class: "unit" }, unit)),
    figure, below);
}
