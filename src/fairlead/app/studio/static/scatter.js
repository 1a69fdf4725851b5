// Two terms of the reward against each other. Every dot is a picture; a click opens it.
import { html, useState } from "./view.js";
import { picture } from "./api.js";
import { ticks } from "./chart.js";
import { number } from "./words.js";

const WIDTH = 560, HEIGHT = 420, LEFT = 62, RIGHT = 18, TOP = 18, FLOOR = HEIGHT - 46, SIDE = 30;
const MOST = 150; // pictures; with more, the best ones are pictures and the others dots

const value = (c, name) => (name === "reward" ? c.reward : Number(c.terms[name] ?? NaN));

export function Scatter({ record, onPick }) {
  const usable = [...record.terms, "reward"];
  const [chosen, choose] = useState([null, null]);
  if (record.terms.length < 2) return null;
  const [across, up] = [chosen[0] ?? usable[0], chosen[1] ?? usable[1]];
  const points = record.ranked.map((c) => ({ c, a: value(c, across), b: value(c, up) })).filter((p) => Number.isFinite(p.a) && Number.isFinite(p.b));
  const range = (all) => {
    const low = Math.min(...all), high = Math.max(...all);
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low - room, high + room];
  };
  const select = (which, words) => html`<label>${words} <select value=${which ? up : across} onChange=${(e) => choose(which ? [across, e.target.value] : [e.target.value, up])}>
    ${usable.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`;
  const chart = () => {
    const [left, right] = range(points.map((p) => p.a));
    const [low, high] = range(points.map((p) => p.b));
    const x = (v) => LEFT + ((WIDTH - LEFT - RIGHT) * (v - left)) / (right - left);
    const y = (v) => TOP + ((FLOOR - TOP) * (high - v)) / (high - low);
    const best = record.best?.index;
    return html`<svg class="chart scatter" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="group" aria-label="${up} against ${across}">
      ${ticks(low, high, 5).map((v) => html`<line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(v)} y2=${y(v)} /><text x=${LEFT - 8} y=${y(v) + 3.5} text-anchor="end">${number(v)}</text>`)}
      ${ticks(left, right, 5).map((v) => html`<text x=${x(v)} y=${FLOOR + 17} text-anchor="middle">${number(v)}</text>`)}
      <line class="axis" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${FLOOR} y2=${FLOOR} />
      <text class="label" x=${LEFT + (WIDTH - LEFT - RIGHT) / 2} y=${HEIGHT - 8} text-anchor="middle">${across}</text>
      ${[...points].reverse().map(({ c, a, b }, i) => {
        const label = `Candidate ${c.index}: ${across} ${number(a)}, ${up} ${number(b)}`;
        const open = { onClick: () => onPick(c.index), onKeyDown: (e) => e.key === "Enter" && onPick(c.index) };
        if (points.length - i > MOST) return html`<circle class="dot" key=${c.index} cx=${x(a)} cy=${y(b)} r="3" ...${open}><title>${label}</title></circle>`;
        return html`<g class="shot-dot ${c.index === best ? "best" : ""}" key=${c.index} data-dot=${c.index} role="button" tabindex="0" aria-label=${label} ...${open}>
          <image href=${picture(record.data.id, c.image, true)} x=${x(a) - SIDE / 2} y=${y(b) - SIDE / 2} width=${SIDE} height=${SIDE} />
          <rect x=${x(a) - SIDE / 2} y=${y(b) - SIDE / 2} width=${SIDE} height=${SIDE} rx="3" /><title>${label}</title></g>`;
      })}
    </svg>`;
  };
  return html`<div class="charts"><div><h2>Terms against each other <small>every dot is a picture</small></h2>
    <div class="axes">${select(0, "across")}${select(1, "up")}</div>
    <figure class="card" tabindex="0">${points.length > 1 ? chart() : html`<p class="small">There is nothing to compare yet.</p>`}</figure></div></div>`;
}
