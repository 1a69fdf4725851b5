// One picture, large, with what is known about it and what can be done with it.
import { html, useEffect, useRef } from "./view.js";
import { picture } from "./api.js";
import { Offspring } from "./offspring.js";
import { Strip } from "./strip.js";
import { number } from "./words.js";

export function Viewer({ record, index, onClose, walk, flip, pair, fail, writing, write, onNote }) {
  const box = useRef(null);
  const c = index === null ? null : record.rows.get(index);
  useEffect(() => {
    if (c && !box.current.open) box.current.showModal();
    if (!c && box.current.open) box.current.close();
  }, [c]);
  const own = c ? record.marks.get(c.index) ?? {} : {};
  return html`<dialog class="viewer" ref=${box} onClose=${onClose} onClick=${(e) => e.target === box.current && onClose()} aria-label="Picture">
    ${c && html`<img src=${picture(record.data.id, c.image)} alt="Candidate ${c.index}" data-digest=${c.image} />
      <p>candidate ${c.index}${c.refines !== null ? `, draft ${c.refines} in full` : ""} · <b class="num">${Number.isNaN(c.reward) ? "no reward" : number(c.reward)}</b>
        ${Object.keys(c.terms).length > 1 && Object.entries(c.terms).map(([name, value]) => html`<span class="term">${name} ${number(value === null ? NaN : Number(value))}</span>`)}</p>
      ${writing ? html`<${Note} text=${own.note ?? ""} onDone=${(text) => { write(false); if (text !== null) onNote(c.index, text); }} />`
        : own.note && html`<p class="remark">${own.note}</p>`}
      <div class="verbs">
        <button type="button" onClick=${() => walk(-1)} aria-label="The picture before">←</button>
        <button type="button" aria-pressed=${Boolean(own.star)} onClick=${() => flip(c.index, "star")}>${own.star ? "★" : "☆"} Star</button>
        <button type="button" aria-pressed=${Boolean(own.reject)} onClick=${() => flip(c.index, "reject")}>Reject</button>
        <button type="button" onClick=${() => write(true)}>Note</button>
        <button type="button" onClick=${() => pair(c.index)}>Compare</button>
        <button type="button" onClick=${() => walk(1)} aria-label="The picture after">→</button>
        <button type="button" onClick=${onClose}>Close</button>
      </div>
      <${Offspring} record=${record} index=${c.index} fail=${fail} />
      <${Strip} run=${record.data.id} index=${c.index} fail=${fail} />`}
  </dialog>`;
}

function Note({ text, onDone }) {
  const box = useRef(null);
  useEffect(() => box.current.focus(), []);
  const typed = (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      onDone(null);
    }
  };
  return html`<form class="note" onSubmit=${(e) => { e.preventDefault(); onDone(box.current.value.trim()); }}>
    <input ref=${box} aria-label="Note" placeholder="A note, then Enter" maxlength="2000" value=${text} onKeyDown=${typed} />
    <button type="submit">Keep</button></form>`;
}
