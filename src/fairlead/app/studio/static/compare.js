// Two pictures of a run against each other: one zoom and one pan for both, arrows step B through the gallery.
import { html, useEffect, useRef, useState } from "./view.js";
import { picture } from "./api.js";
import { number } from "./words.js";

const WAYS = [["side", "Side by side"], ["slider", "Slider"], ["fade", "Fade"], ["difference", "Difference"]];
const MOST = 16; // times enlarged

export function Compare({ record, a, b, walk, onClose, pin }) {
  const box = useRef(null);
  const [way, setWay] = useState("side");
  const [at, setAt] = useState(50);
  const [look, setLook] = useState({ zoom: 1, x: 0, y: 0 });
  const drag = useRef(null);
  const one = record.rows.get(a);
  const two = b === null ? null : record.rows.get(b);
  const open = Boolean(one && two);
  useEffect(() => {
    if (open && !box.current.open) box.current.showModal();
    if (!open && box.current.open) box.current.close();
  }, [open]);
  const zoom = (factor) => setLook((now) => {
    const next = Math.min(MOST, Math.max(1, now.zoom * factor));
    return next === 1 ? { zoom: 1, x: 0, y: 0 } : { zoom: next, x: now.x, y: now.y };
  });
  const down = (event) => {
    drag.current = [event.clientX - look.x, event.clientY - look.y];
    event.currentTarget.setPointerCapture(event.pointerId);
  };
  const move = (event) => {
    if (drag.current && look.zoom > 1) setLook({ ...look, x: event.clientX - drag.current[0], y: event.clientY - drag.current[1] });
  };
  const typed = (event) => {
    if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const placed = { transform: `translate(${look.x}px, ${look.y}px) scale(${look.zoom})` };
  const image = (c, name, style = {}) => html`<div class="pane"><img src=${picture(record.data.id, c.image)} alt="${name}: candidate ${c.index}" data-digest=${c.image} draggable="false" style=${{ ...placed, ...style }} /></div>`;
  const over = { slider: { clipPath: `inset(0 0 0 ${at}%)` }, fade: { opacity: at / 100 }, difference: { mixBlendMode: "difference" } }[way] ?? {};
  const words = (c, name) => html`<span><b>${name}</b> candidate ${c.index} · <span class="num">${number(c.reward)}</span></span>`;
  return html`<dialog class="viewer compare" ref=${box} onClose=${onClose} onKeyDown=${typed} aria-label="Compare two pictures">
    ${open && html`
      <div class="panes ${way}" onPointerDown=${down} onPointerMove=${move} onPointerUp=${() => (drag.current = null)} onWheel=${(e) => zoom(e.deltaY < 0 ? 1.2 : 1 / 1.2)}>
        ${image(one, "A")}
        ${way === "side" ? image(two, "B") : html`<div class="over" style=${way === "slider" ? over : {}}>${image(two, "B", way === "slider" ? {} : over)}</div>`}
      </div>
      ${(way === "slider" || way === "fade") && html`<input class="range" type="range" min="0" max="100" value=${at} aria-label="From A to B" onInput=${(e) => setAt(Number(e.target.value))} />`}
      <p class="names">${words(one, "A")}${words(two, "B")}</p>
      <div class="verbs" role="group" aria-label="How to compare">${WAYS.map(([word, text]) => html`<button type="button" aria-pressed=${way === word} onClick=${() => setWay(word)}>${text}</button>`)}</div>
      <div class="verbs">
        <button type="button" onClick=${() => walk(-1)} aria-label="The picture before, as B">←</button>
        <button type="button" onClick=${() => walk(1)} aria-label="The picture after, as B">→</button>
        <button type="button" onClick=${() => zoom(1.5)} aria-label="Enlarge">+</button>
        <button type="button" onClick=${() => zoom(1 / 1.5)} aria-label="Make smaller">−</button>
        <button type="button" onClick=${() => pin(two.index)}>B becomes A</button>
        <button type="button" onClick=${onClose}>Close</button>
      </div>`}
  </dialog>`;
}
