// Two terms of the reward against each other. Every dot is a picture; a click opens it.
import { html, useState } from "./view.js";
import { picture } from "./api.js";
import { bounds, fitting, frame } from "./frame.js";
import { number } from "./words.js";

const HEIGHT = 420, SIDE = 30;
const MOST = 150; // pictures; with more, the best ones are pictures and the others dots

const value = (c, name) => (name === "reward" ? c.reward : Number(c.terms[name] ?? NaN));

export function Scatter({ record, onPick }) {
  const usable = [...record.terms, "reward"];
  const [chosen, choose] = useState([null, null]);
  if (record.terms.length < 2) return null;
  const [across, up] = [chosen[0] ?? usable[0], chosen[1] ?? usable[1]];
  const points = record.ranked.map((c) => ({ c, a: value(c, across), b: value(c, up) })).filter((p) => Number.isFinite(p.a) && Number.isFinite(p.b));
  const select = (which, words) => html`<label>${words} <select value=${which ? up : across} onChange=${(e) => choose(which ? [across, e.target.value] : [e.target.value, up])}>
    ${usable.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`;
  const chart = () => {
    const width = fitting(560);
    const { x, y, axes } = frame(width, HEIGHT, bounds(points.map((p) => p.a)), bounds(points.map((p) => p.b)));
    const best = record.best?.index;
    return html`<svg class="chart scatter" viewBox="0 0 ${width} ${HEIGHT}" role="group" aria-label="${up} against ${across}">
      ${axes(across)}
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
