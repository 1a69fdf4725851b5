// The report's chart as SVG elements: one run, like the chart of app/chart.py.
import { html } from "./view.js";
import { number } from "./words.js";
import { LABELS, bounds, fitting, frame } from "./frame.js";
import { staircase } from "./record.js";

const HEIGHT = 320;
const DOTS = 600;

export function Chart({ record, axis, onPick }) {
  const trace = record.trace(axis);
  const rungs = 1 + Math.max(0, ...trace.map((p) => p.rung));
  const lines = Array.from({ length: rungs }, (_, rung) => staircase(trace.filter((p) => p.rung === rung)));
  const baseline = record.baseline?.reward ?? NaN;
  const heights = [baseline, ...trace.map((p) => p.reward)].filter(Number.isFinite);
  if (!heights.length) return null;
  const spent = record.data.spent?.[axis] ?? 0;
  const limit = record.data.limit?.[axis] ?? Infinity;
  const most = Math.max(spent, ...trace.map((p) => p.x));
  const right = Math.max(limit <= most * 1.6 ? limit : most, most) * 1.02 || 1;
  const width = fitting(560);
  const { x, y, path, axes, left, end, top, floor } = frame(width, HEIGHT, [0, right], bounds(heights));
  const drawn = (steps) => path(steps, Math.max(spent, steps[steps.length - 1][0]));
  const every = Math.ceil(trace.length / DOTS);
  const dots = trace.filter((p, i) => Number.isFinite(p.reward) && i % every === 0);
  const last = lines.length ? lines[lines.length - 1] : [];
  const winner = last[last.length - 1];
  return html`<svg class="chart" viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="Best reward so far against ${axis}">
    ${axes(LABELS[axis])}
    ${limit <= right && html`<line class="limit" x1=${x(limit)} x2=${x(limit)} y1=${top} y2=${floor} />
      <text class="note" x=${x(limit) - 5} y=${floor - 7} text-anchor="end">budget</text>`}
    ${winner && winner[1] > baseline && html`<path class="gain" d="${drawn(last)}V${y(baseline)}H${x(last[0][0])}Z" />`}
    ${dots.map((p) => html`<circle class="dot" cx=${x(p.x)} cy=${y(p.reward)} r="2.6" onClick=${() => onPick?.(p.index)}>
      <title>candidate ${p.index}: ${number(p.reward)}</title></circle>`)}
    ${Number.isFinite(baseline) && html`<line class="base" x1=${left} x2=${end} y1=${y(baseline)} y2=${y(baseline)} />
      <text class="note base-note" x=${end - 4} y=${y(baseline) + 14} text-anchor="end">baseline ${number(baseline)}</text>`}
    ${lines.map((steps) => steps.length > 0 && html`<path class="best line" d=${drawn(steps)} />
      <circle class="winner line" cx=${x(steps[steps.length - 1][0])} cy=${y(steps[steps.length - 1][1])} r="5" />`)}
    ${winner && html`<text class="note best-note" x=${Math.min(x(winner[0]), width - 110)} y=${y(winner[1]) - 9}>best ${number(winner[1])}</text>`}
  </svg>`;
}
