// The batch that is computed now: its steps, and its pictures while they form, where that is switched on.
import { html, useEffect, useState } from "./view.js";
import { get, post } from "./api.js";
import { count, duration } from "./words.js";

const EVERY = 2; // steps between two previews

function what({ first, last }) {
  if (last < 0) return "the baseline";
  return first === last ? `candidate ${first}` : `candidates ${first} to ${last}`;
}

export function Forming({ record, fail }) {
  const [every, setEvery] = useState(null);
  const { active } = record.data.state;
  useEffect(() => void (active && get("/api/previews").then((found) => setEvery(found.every)).catch(fail)), [active]);
  const batch = record.progress?.batch;
  if (!active || every === null) return null;
  const flip = () => post("/api/previews", { every: every ? 0 : EVERY }).then((found) => setEvery(found.every)).catch(fail);
  const share = batch ? (100 * batch.step) / batch.steps : 0;
  const loading = record.data.state.word === "queued" ? "It waits for its turn." : "The model is being prepared.";
  return html`<section class="card forming" aria-label="Present batch">
    <div class="forming-head">
      <p>${batch ? html`step <span class="num">${batch.step}</span> of <span class="num">${batch.steps}</span>, ${what(batch)}` : loading}</p>
      <button class="quiet" type="button" aria-pressed=${every > 0} onClick=${flip}>Show pictures while they form</button>
    </div>
    <div class="bar" role="progressbar" aria-label="Steps of the present batch" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share)}><i style=${{ width: `${share}%` }}></i></div>
    ${every > 0 && batch?.shown.length > 0 && html`<div class="forming-wall">${batch.shown.map((index) => html`<img key=${index}
        src="/api/runs/${record.data.id}/previews/${index}?n=${batch.number}" alt="Candidate ${index} while it forms" data-forming=${index} />`)}</div>`}
    ${batch?.apart.decodes > 0 && html`<p class="small">Previews so far: ${duration(batch.apart.seconds)}, ${count(batch.apart.decodes)} decoded. They are not part of the budget.</p>`}
    ${every > 0 && !batch?.apart.decodes && html`<p class="small">Previews start with the next batch. They are not part of the budget.</p>`}
  </section>`;
}
