// A gallery of any length: only the rows near the window are in the document.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./view.js";
import { picture } from "./api.js";
import { number } from "./words.js";

const GAP = 12, CAPTION = 29, PADDING = 12, OVERSCAN = 2;

export function Gallery({ record, order, selected, onSelect, onOpen, columnsRef }) {
  const box = useRef(null);
  const [width, setWidth] = useState(0);
  const [range, setRange] = useState([0, 6]);
  const least = width < 500 ? 98 : 136;
  const columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
  const cell = (width - GAP * (columns - 1)) / columns;
  const height = cell - PADDING + CAPTION + PADDING + GAP;
  const rows = Math.ceil(order.length / columns);
  columnsRef.current = columns;

  useLayoutEffect(() => {
    const seen = new ResizeObserver(() => setWidth(box.current?.clientWidth ?? 0));
    seen.observe(box.current);
    return () => seen.disconnect();
  }, []);
  useEffect(() => {
    const look = () => {
      if (!box.current || !width) return;
      const top = -box.current.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / height) - OVERSCAN);
      const last = Math.max(first + 1, Math.ceil((top + window.innerHeight) / height) + OVERSCAN);
      setRange((now) => (now[0] === first && now[1] === last ? now : [first, last]));
    };
    look();
    window.addEventListener("scroll", look, { passive: true });
    return () => window.removeEventListener("scroll", look);
  }, [width, height, rows]);
  useEffect(() => {
    const place = order.findIndex((c) => c.index === selected);
    if (place < 0 || !width || !box.current) return;
    const top = box.current.getBoundingClientRect().top + Math.floor(place / columns) * height;
    if (top < 60) window.scrollBy({ top: top - 80 });
    else if (top + height > window.innerHeight) window.scrollBy({ top: top + height - window.innerHeight + 16 });
  }, [selected]);

  const shown = width ? order.slice(range[0] * columns, range[1] * columns) : [];
  const best = record.best;
  const ranks = useMemo(() => new Map(record.ranked.map((c, i) => [c.index, i + 1])), [record.ranked]);
  return html`<div class="wall" ref=${box} role="list" aria-label="Candidates" style=${{ height: `${rows * height}px` }}>
    ${shown.map((c, i) => {
      const place = range[0] * columns + i;
      const at = { width: `${cell}px`, transform: `translate(${(place % columns) * (cell + GAP)}px, ${Math.floor(place / columns) * height}px)` };
      return html`<div class="place" role="listitem" key=${c.index} style=${at} aria-setsize=${order.length} aria-posinset=${place + 1}>
        <${Cell} record=${record} c=${c} rank=${ranks.get(c.index)} wins=${best?.index === c.index}
          selected=${selected === c.index} onSelect=${onSelect} onOpen=${onOpen} /></div>`;
    })}
  </div>`;
}

function Cell({ record, c, rank, wins, selected, onSelect, onOpen }) {
  const failed = Number.isNaN(c.reward);
  const star = record.has(c.index, "star");
  const reject = record.has(c.index, "reject");
  const isBase = record.baseline?.index === c.index;
  const css = ["card", "cell", wins && "win", isBase && !wins && "base", failed && "failed", reject && "rejected", selected && "selected"];
  const words = failed ? "no reward" : `reward ${number(c.reward)}, rank ${rank}`;
  const label = `Candidate ${c.index}: ${words}${wins ? ", best" : ""}${isBase ? ", baseline" : ""}${star ? ", starred" : ""}${reject ? ", rejected" : ""}`;
  return html`<button type="button" class=${css.filter(Boolean).join(" ")} aria-label=${label} data-index=${c.index}
      onFocus=${() => onSelect(c.index)} onClick=${() => onOpen(c.index)} tabindex=${selected ? 0 : -1}>
    <img src=${picture(record.data.id, c.image, true)} alt="" decoding="async" data-digest=${c.image} />
    ${wins && html`<span class="tag">best</span>`}${isBase && html`<span class="tag base">baseline</span>`}
    ${star && html`<span class="star" aria-hidden="true">★</span>`}
    <span class="caption"><b class="num">${failed ? "–" : number(c.reward)}</b><span>${c.index}</span></span>
  </button>`;
}
