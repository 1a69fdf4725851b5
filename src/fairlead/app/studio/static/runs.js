// Every run under the runs folder, the latest first.
import { html, useEffect, useMemo, useState } from "./view.js";
import { get, picture, post, stream } from "./api.js";
import { Requeue } from "./requeue.js";
import { ago, count, number } from "./words.js";

export function Runs({ say, fail }) {
  const [runs, setRuns] = useState(null);
  const [words, setWords] = useState("");
  const [chosen, choose] = useState([]);
  const flip = (id) => choose((now) => (now.includes(id) ? now.filter((one) => one !== id) : [...now, id]));
  const load = () => get("/api/runs").then((data) => setRuns(data.runs)).catch(fail);
  useEffect(() => stream("/api/events", "", { runs: load, lost: (e) => e.status && fail(e) }), []);
  const found = useMemo(() => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (run) => [run.prompt, run.model, run.reward, run.search, run.name, run.state?.word].join(" ").toLowerCase();
    return (runs ?? []).filter((run) => wanted.every((word) => text(run).includes(word)));
  }, [runs, words]);

  async function trash(run) {
    try {
      const { id } = await post(`/api/runs/${run.id}/trash`);
      const undo = async () => {
        await post(`/api/trash/${id}/restore`).catch(fail);
        say("");
        load();
      };
      say(id ? `Moved ${run.name} to the trash folder.` : `Removed ${run.name} from the list.`, id ? undo : null);
      load();
    } catch (error) {
      fail(error);
    }
  }
  const act = (run, verb, body) => post(`/api/runs/${run.id}/${verb}`, body).then(load).catch((e) => fail(e, (agreed) => act(run, verb, { agreed })));

  if (runs === null) return html`<h1 class="sr">Runs</h1>`;
  if (!runs.length) {
    return html`<div class="empty"><h1>No runs yet</h1>
      <p>Describe a picture. The studio searches for the best one that your model can make.</p>
      <a class="button primary" href="#/new">Write a prompt</a></div>`;
  }
  return html`<div class="head"><h1>Runs</h1>
      <input type="search" class="field" placeholder="Search the runs" aria-label="Search the runs" value=${words} onInput=${(e) => setWords(e.target.value)} />
      <a class="button primary" href="#/new">New</a></div>
    ${!found.length && html`<p class="small">No run has all of these words.</p>`}
    <div class="runs" role="list">${found.map((run) => html`<${Card} key=${run.id} run=${run} act=${act} trash=${trash} chosen=${chosen.includes(run.id)} flip=${flip} />`)}</div>
    ${chosen.length > 0 && html`<div class="chosen" role="region" aria-label="Chosen runs"><p class="card">${chosen.length} ${chosen.length > 1 ? "runs" : "run"} chosen
      ${chosen.length > 1 ? html`<a class="button primary" href="#/compare/${chosen.join("/")}">Compare</a>` : html`<span class="small">choose another one to compare</span>`}
      <button class="quiet" type="button" onClick=${() => choose([])}>Clear</button></p></div>`}`;
}

function Card({ run, act, trash, chosen, flip }) {
  if (run.error) {
    return html`<article class="card run" role="listitem"><div class="thumb blank"></div>
      <div class="words"><h2>${run.name}</h2><p class="problem">${run.error}</p></div></article>`;
  }
  const gain = run.best && run.baseline ? Number(run.best.reward) - Number(run.baseline.reward) : NaN;
  const state = run.state;
  return html`<article class="card run ${chosen ? "chosen-run" : ""}" role="listitem">
    ${run.candidates > 0 && html`<label class="pick"><input type="checkbox" checked=${chosen} onChange=${() => flip(run.id)} aria-label="Choose for comparing: ${run.prompt.slice(0, 100)}" /></label>`}
    <a class="cover" href="#/run/${run.id}" aria-label="Open: ${run.prompt}">
      ${run.best ? html`<img class="thumb" src=${picture(run.id, run.best.image, true)} alt="" loading="lazy" decoding="async" />`
        : html`<div class="thumb blank ${state.active ? "busy" : ""}"></div>`}
    </a>
    <div class="words">
      <h2 dir="auto"><a href="#/run/${run.id}" tabindex="-1">${run.prompt}</a></h2>
      <p class="line">${Number.isFinite(gain) ? html`<b class="num ${gain > 0 ? "up" : ""}">${number(gain, true)}</b>` : html`<b class="num">–</b>`}
        ${run.method && html`<span>${run.method}</span>`}<span>${count(run.candidates)} pictures</span>${run.stars > 0 && html`<span>★ ${run.stars}</span>`}<span>${ago(run.created)}</span></p>
      ${state.word !== "finished" && html`<p class="state ${state.word}" title=${state.sentence}>${state.word}</p>`}
      ${run.questions > 0 && html`<p class="small"><a href="#/judge/${run.id}">It waits for your answer</a></p>`}
      ${["died", "failed", "stuck"].includes(state.word) && html`<p class="problem">${state.sentence}</p>`}
      <${Requeue} state=${state} act=${(verb, body) => act(run, verb, body)} />
      <p class="acts">
        ${(state.active || state.word === "stuck") && html`<button class="quiet" type="button" onClick=${() => act(run, "stop")}>Stop</button>`}
        ${state.resumable && html`<button class="quiet" type="button" onClick=${() => act(run, "resume")}>Resume</button>`}
        ${!state.active && state.word !== "stuck" && html`<button class="quiet" type="button" onClick=${() => trash(run)}>Trash</button>`}
      </p>
    </div></article>`;
}
