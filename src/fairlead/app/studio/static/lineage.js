// Who was drawn from whom: each row of the tree is a generation, a line leads from a picture to the one it was drawn
// from, and the colour of its frame is its reward.
import { html, useMemo } from "./view.js";
import { picture } from "./api.js";
import { number } from "./words.js";

const SIDE = 40, GAP = 8, ROW = 74, MOST = 400;
const LEAST = 0.6; // of its size: a wider tree is scrolled

const origin = (c) => c.origin ?? c.refines ?? null;

export function family(candidates) {
  const depth = new Map();
  for (const c of candidates) {
    const from = origin(c);
    depth.set(c.index, from === null || !depth.has(from) ? 0 : depth.get(from) + 1);
  }
  const rows = [];
  for (const c of candidates) (rows[depth.get(c.index)] ??= []).push(c);
  return rows;
}

export function Lineage({ record, onPick }) {
  const shown = record.candidates.slice(0, MOST);
  const known = shown.some((c) => origin(c) !== null);
  const rows = useMemo(() => (known ? family(shown) : []), [record.version]);
  if (!known) return null;
  const most = Math.max(...rows.map((row) => row.length));
  const width = most * (SIDE + GAP) + GAP;
  const height = rows.length * ROW - (ROW - SIDE) + 2 * GAP;
  const rewards = shown.map((c) => c.reward).filter(Number.isFinite);
  const low = Math.min(...rewards), high = Math.max(...rewards);
  const share = (v) => (Number.isFinite(v) ? (high > low ? (v - low) / (high - low) : 1) : 0);
  const place = new Map();
  rows.forEach((row, i) => {
    const start = (width - row.length * (SIDE + GAP) + GAP) / 2;
    row.forEach((c, j) => place.set(c.index, [start + j * (SIDE + GAP), GAP + i * ROW]));
  });
  const line = (c) => {
    const [x, y] = place.get(c.index);
    const [px, py] = place.get(origin(c));
    const [top, foot, mid] = [py + SIDE, y, (py + SIDE + y) / 2];
    return html`<path key=${c.index} class="kin" style=${{ opacity: 0.25 + 0.75 * share(c.reward) }} d="M${px + SIDE / 2} ${top}C${px + SIDE / 2} ${mid} ${x + SIDE / 2} ${mid} ${x + SIDE / 2} ${foot}" />`;
  };
  const best = record.best?.index;
  return html`<h2>Lineage <small>a line leads to the picture that another was drawn from; the stronger the frame, the higher the reward</small></h2>
    <div class="card scroll lineage" tabindex="0" role="region" aria-label="Who was drawn from whom">
      <svg viewBox="0 0 ${width} ${height}" style=${{ width: `max(min(100%, ${width}px), ${LEAST * width}px)` }} role="group" aria-label="Family tree of the pictures">
        ${shown.filter((c) => place.has(origin(c))).map(line)}
        ${shown.map((c) => {
          const [x, y] = place.get(c.index);
          const label = `Candidate ${c.index}, reward ${number(c.reward)}${origin(c) === null ? "" : `, drawn from ${origin(c)}`}`;
          return html`<g key=${c.index} class="shot-dot ${c.index === best ? "best" : ""}" data-kin=${c.index} role="button" tabindex="0" aria-label=${label}
              onClick=${() => onPick(c.index)} onKeyDown=${(e) => e.key === "Enter" && onPick(c.index)}>
            <image href=${picture(record.data.id, c.image, true)} x=${x} y=${y} width=${SIDE} height=${SIDE} />
            <rect class="worth" x=${x} y=${y} width=${SIDE} height=${SIDE} rx="4" style=${{ strokeOpacity: 0.15 + 0.85 * share(c.reward) }} /><title>${label}</title></g>`;
        })}
      </svg></div>
    ${record.candidates.length > MOST && html`<p class="small">The first ${MOST} pictures are shown.</p>`}`;
}
