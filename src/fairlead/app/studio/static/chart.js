// The report's chart as SVG elements: the same geometry and the same classes as app/chart.py.
import { html } from "./view.js";
import { number } from "./words.js";
import { staircase } from "./record.js";

const WIDTH = 560, HEIGHT = 320, LEFT = 62, RIGHT = 18, TOP = 22, FLOOR = HEIGHT - 46;
const DOTS = 600;

export function ticks(low, high, wanted) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

export function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : Math.abs(value) || 1;
  if (step >= 1e6 || step < 1e-5) return value.toPrecision(3);
  let decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (Number((step * 10 ** decimals).toFixed(9)) % 1) decimals += 1;
  const text = value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return text.replace("-", "−");
}

export function Chart({ record, axis, onPick }) {
  const trace = record.trace(axis);
  const top = Math.max(0, ...trace.map((p) => p.rung));
  const lines = Array.from({ length: top + 1 }, (_, rung) => staircase(trace.filter((p) => p.rung === rung)));
  const baseline = record.baseline?.reward ?? NaN;
  const heights = [baseline, ...trace.map((p) => p.reward)].filter(Number.isFinite);
  if (!heights.length) return null;
  const lowest = Math.min(...heights);
  const highest = Math.max(...heights);
  const room = (highest - lowest) * 0.08 || Math.abs(highest) * 0.1 || 1;
  const low = lowest - room;
  const high = highest + room;
  const spent = record.data.spent?.[axis] ?? 0;
  const limit = record.data.limit?.[axis] ?? Infinity;
  const most = Math.max(spent, ...trace.map((p) => p.x));
  const right = Math.max(limit <= most * 1.6 ? limit : most, most) * 1.02 || 1;
  const x = (v) => LEFT + ((WIDTH - LEFT - RIGHT) * v) / right;
  const y = (v) => TOP + ((FLOOR - TOP) * (high - v)) / (high - low);
  const path = (steps) => {
    const [[x0, y0], ...rest] = steps;
    const end = Math.max(spent, steps[steps.length - 1][0]);
    return `M${x(x0).toFixed(1)} ${y(y0).toFixed(1)}${rest.map(([a, b]) => `H${x(a).toFixed(1)}V${y(b).toFixed(1)}`).join("")}H${x(end).toFixed(1)}`;
  };
  const yTicks = ticks(low, high, 5);
  const xTicks = ticks(0, right, 6);
  const every = Math.ceil(trace.length / DOTS);
  const dots = trace.filter((p, i) => Number.isFinite(p.reward) && i % every === 0);
  const label = axis === "nfe" ? "NFE (denoiser evaluations of all candidates)" : "seconds of computing";
  const last = lines.length ? lines[lines.length - 1] : [];
  const winner = last[last.length - 1];
  return html`<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Best reward so far against ${axis}">
    ${yTicks.map((v) => html`<line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(v)} y2=${y(v)} />
      <text x=${LEFT - 8} y=${y(v) + 3.5} text-anchor="end">${tickText(v, yTicks)}</text>`)}
    ${xTicks.map((v) => html`<line class="tick" x1=${x(v)} x2=${x(v)} y1=${FLOOR} y2=${FLOOR + 4} />
      <text x=${x(v)} y=${FLOOR + 17} text-anchor="middle">${tickText(v, xTicks)}</text>`)}
    <line class="axis" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${FLOOR} y2=${FLOOR} />
    <text class="label" x=${LEFT + (WIDTH - LEFT - RIGHT) / 2} y=${HEIGHT - 8} text-anchor="middle">${label}</text>
    ${limit <= right && html`<line class="limit" x1=${x(limit)} x2=${x(limit)} y1=${TOP} y2=${FLOOR} />
      <text class="note" x=${x(limit) - 5} y=${FLOOR - 7} text-anchor="end">budget</text>`}
    ${winner && winner[1] > baseline && html`<path class="gain" d="${path(last)}V${y(baseline)}H${x(last[0][0])}Z" />`}
    ${dots.map((p) => html`<circle class="dot" cx=${x(p.x)} cy=${y(p.reward)} r="2.6" onClick=${() => onPick?.(p.index)}>
      <title>candidate ${p.index}: ${number(p.reward)}</title></circle>`)}
    ${Number.isFinite(baseline) && html`<line class="base" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(baseline)} y2=${y(baseline)} />
      <text class="note base-note" x=${WIDTH - RIGHT - 4} y=${y(baseline) + 14} text-anchor="end">baseline ${number(baseline)}</text>`}
    ${lines.map((steps) => steps.length > 0 && html`<path class="best line" d=${path(steps)} />
      <circle class="winner line" cx=${x(steps[steps.length - 1][0])} cy=${y(steps[steps.length - 1][1])} r="5" />`)}
    ${winner && html`<text class="note best-note" x=${Math.min(x(winner[0]), WIDTH - 110)} y=${y(winner[1]) - 9}>best ${number(winner[1])}</text>`}
  </svg>`;
}
