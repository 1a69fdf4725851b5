// The best reward so far of several runs on one chart.
import { html } from "./view.js";
import { LABELS, bounds, fitting, frame } from "./frame.js";
import { staircase } from "./record.js";

const HEIGHT = 340;

export function Curves({ records, labels, colours, axis }) {
  const traces = records.map((record) => record.trace(axis));
  const lines = traces.map((trace) => {
    const top = Math.max(0, ...trace.map((p) => p.rung));
    return staircase(trace.filter((p) => p.rung === top));
  });
  const baseline = records.map((r) => r.baseline?.reward).find(Number.isFinite) ?? NaN;
  const heights = [baseline, ...lines.flat().map(([, y]) => y)].filter(Number.isFinite);
  if (!lines.some((steps) => steps.length)) return html`<p class="small">No picture has a reward yet.</p>`;
  const ends = records.map((r, i) => Math.max(r.data.spent?.[axis] ?? 0, ...traces[i].map((p) => p.x)));
  const right = Math.max(...ends) * 1.02 || 1;
  const width = fitting(900);
  const { x, y, path, axes, left, end } = frame(width, HEIGHT, [0, right], bounds(heights));
  return html`<svg class="chart" viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="Best reward so far of ${labels.join(", ")} against ${axis}">
    ${axes(LABELS[axis])}
    ${Number.isFinite(baseline) && html`<line class="base" x1=${left} x2=${end} y1=${y(baseline)} y2=${y(baseline)} />`}
    ${lines.map((steps, i) => steps.length > 0 && html`<path class="best" data-run=${records[i].data.id} style=${{ stroke: colours[i % colours.length] }} d=${path(steps, ends[i])} />
      <circle class="winner" style=${{ stroke: colours[i % colours.length] }} cx=${x(steps[steps.length - 1][0])} cy=${y(steps[steps.length - 1][1])} r="5"><title>${labels[i]}</title></circle>`)}
  </svg>`;
}
