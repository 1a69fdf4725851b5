// The axes of the page's charts: scales, ticks and grid, with the geometry and the classes of app/chart.py.
import { html } from "./view.js";

const LEFT = 62, RIGHT = 18, TOP = 22, UNDER = 46;
export const LABELS = { nfe: "NFE (denoiser evaluations of all candidates)", seconds: "seconds of computing" };

function ticks(low, high, wanted) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : Math.abs(value) || 1;
  if (step >= 1e6 || step < 1e-5) return value.toPrecision(3);
  let decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (Number((step * 10 ** decimals).toFixed(9)) % 1) decimals += 1;
  const text = value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return text.replace("-", "−");
}

// The width of a chart in units of its drawing: on a narrow screen fewer, so that its text keeps its size.
export const fitting = (most) => Math.min(most, Math.max(300, document.documentElement.clientWidth - 56));

// The least and the greatest of some values, with a little room around them.
export function bounds(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

// A drawing of `width` by `height` whose values run from `first` to `right` and from `low` to `high`.
export function frame(width, height, [first, right], [low, high]) {
  const floor = height - UNDER;
  const end = width - RIGHT;
  const x = (v) => LEFT + ((end - LEFT) * (v - first)) / (right - first);
  const y = (v) => TOP + ((floor - TOP) * (high - v)) / (high - low);
  const path = ([[x0, y0], ...rest], last) => `M${x(x0).toFixed(1)} ${y(y0).toFixed(1)}${rest.map(([a, b]) => `H${x(a).toFixed(1)}V${y(b).toFixed(1)}`).join("")}H${x(last).toFixed(1)}`;
  const yTicks = ticks(low, high, 5);
  const xTicks = ticks(first, right, width < 420 ? 4 : 6);
  const axes = (label) => html`
    ${yTicks.map((v) => html`<line class="grid" x1=${LEFT} x2=${end} y1=${y(v)} y2=${y(v)} />
      <text x=${LEFT - 8} y=${y(v) + 3.5} text-anchor="end">${tickText(v, yTicks)}</text>`)}
    ${xTicks.map((v) => html`<line class="tick" x1=${x(v)} x2=${x(v)} y1=${floor} y2=${floor + 4} />
      <text x=${x(v)} y=${floor + 17} text-anchor="middle">${tickText(v, xTicks)}</text>`)}
    <line class="axis" x1=${LEFT} x2=${end} y1=${floor} y2=${floor} />
    <text class="label" x=${LEFT + (end - LEFT) / 2} y=${height - 8} text-anchor="middle">${label}</text>`;
  return { x, y, path, axes, left: LEFT, end, top: TOP, floor };
}
