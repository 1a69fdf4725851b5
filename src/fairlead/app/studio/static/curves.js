// The best reward so far of several runs on one chart.
import { html } from "./view.js";
import { tickText, ticks } from "./chart.js";
import { staircase } from "./record.js";

const WIDTH = 900, HEIGHT = 340, LEFT = 62, RIGHT = 18, TOP = 22, FLOOR = HEIGHT - 46;

export function Curves({ records, labels, colours, axis }) {
  const traces = records.map((record) => record.trace(axis));
  const lines = traces.map((trace) => {
    const top = Math.max(0, ...trace.map((p) => p.rung));
    return staircase(trace.filter((p) => p.rung === top));
  });
  const baseline = records.map((r) => r.baseline?.reward).find(Number.isFinite) ?? NaN;
  const heights = [baseline, ...lines.flat().map(([, y]) => y)].filter(Number.isFinite);
  if (!lines.some((steps) => steps.length)) return html`<p class="small">No picture has a reward yet.</p>`;
  const lowest = Math.min(...heights);
  const highest = Math.max(...heights);
  const room = (highest - lowest) * 0.08 || Math.abs(highest) * 0.1 || 1;
  const ends = records.map((r, i) => Math.max(r.data.spent?.[axis] ?? 0, ...traces[i].map((p) => p.x)));
  const right = Math.max(...ends) * 1.02 || 1;
  const low = lowest - room;
  const high = highest + room;
  const x = (v) => LEFT + ((WIDTH - LEFT - RIGHT) * v) / right;
  const y = (v) => TOP + ((FLOOR - TOP) * (high - v)) / (high - low);
  const path = ([[x0, y0], ...rest], end) => `M${x(x0).toFixed(1)} ${y(y0).toFixed(1)}${rest.map(([a, b]) => `H${x(a).toFixed(1)}V${y(b).toFixed(1)}`).join("")}H${x(end).toFixed(1)}`;
  const yTicks = ticks(low, high, 5);
  const xTicks = ticks(0, right, 6);
  const label = axis === "nfe" ? "NFE (denoiser evaluations of all candidates)" : "seconds of computing";
  return html`<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Best reward so far of ${labels.join(", ")} against ${axis}">
    ${yTicks.map((v) => html`<line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(v)} y2=${y(v)} />
      <text x=${LEFT - 8} y=${y(v) + 3.5} text-anchor="end">${tickText(v, yTicks)}</text>`)}
    ${xTicks.map((v) => html`<line class="tick" x1=${x(v)} x2=${x(v)} y1=${FLOOR} y2=${FLOOR + 4} />
      <text x=${x(v)} y=${FLOOR + 17} text-anchor="middle">${tickText(v, xTicks)}</text>`)}
    <line class="axis" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${FLOOR} y2=${FLOOR} />
    <text class="label" x=${LEFT + (WIDTH - LEFT - RIGHT) / 2} y=${HEIGHT - 8} text-anchor="middle">${label}</text>
    ${Number.isFinite(baseline) && html`<line class="base" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(baseline)} y2=${y(baseline)} />`}
    ${lines.map((steps, i) => steps.length > 0 && html`<path class="best" data-run=${records[i].data.id} style=${{ stroke: colours[i % colours.length] }} d=${path(steps, ends[i])} />
      <circle class="winner" style=${{ stroke: colours[i % colours.length] }} cx=${x(steps[steps.length - 1][0])} cy=${y(steps[steps.length - 1][1])} r="5"><title>${labels[i]}</title></circle>`)}
  </svg>`;
}
