// Several runs side by side, a column for each: winners under one zoom, gains, curves on one chart, cost.
import { html, useEffect, useRef, useState } from "./view.js";
import { get, picture, stream } from "./api.js";
import { Curves } from "./curves.js";
import { Record } from "./record.js";
import { amount, count, duration, number, resource } from "./words.js";

const COLOURS = ["#0b8ea3", "#d9772b", "#7a5cc4", "#3c9a5f", "#cc4466", "#9a7b1f", "#4a78d0", "#7d8893"]; // of app/runs_page.py
const MOST = 16; // times enlarged

// Each run's record, kept up to date; a run that is not here has a sentence in its place. One stream serves any
// number of runs, because a browser opens only six connections to a server.
function useRuns(ids, fail) {
  const [runs, setRuns] = useState({});
  useEffect(() => {
    const known = {};
    let gone = false;
    const put = (id, value) => {
      known[id] = value;
      if (!gone) setRuns({ ...known });
    };
    const read = async (id) => {
      try {
        put(id, { record: new Record(await get(`/api/runs/${id}`)) });
      } catch (error) {
        if (error.status === 401) fail(error);
        else put(id, { problem: error.message });
      }
    };
    const close = stream("/api/events", "", {
      runs: () => ids.filter((id) => known[id]?.record?.data.state.active ?? true).forEach(read),
      lost: (error) => error.status === 401 && fail(error),
    });
    return () => {
      gone = true;
      close();
    };
  }, [ids.join("/")]);
  return runs;
}

// One zoom and one pan for all pictures.
function useLook() {
  const [look, setLook] = useState({ zoom: 1, x: 0, y: 0 });
  const drag = useRef(null);
  const zoom = (factor) => setLook((now) => {
    const next = Math.min(MOST, Math.max(1, now.zoom * factor));
    return next === 1 ? { zoom: 1, x: 0, y: 0 } : { ...now, zoom: next };
  });
  const hands = {
    onPointerDown(event) {
      if (look.zoom === 1) return;
      drag.current = [event.clientX - look.x, event.clientY - look.y];
      event.currentTarget.setPointerCapture(event.pointerId);
    },
    onPointerMove(event) {
      if (drag.current) setLook({ ...look, x: event.clientX - drag.current[0], y: event.clientY - drag.current[1] });
    },
    onPointerUp: () => (drag.current = null),
    onDblClick: () => zoom(2),
  };
  return { zoom, hands, style: { transform: `translate(${look.x}px, ${look.y}px) scale(${look.zoom})` }, enlarged: look.zoom > 1 };
}

// Names that tell the runs apart: the method, where that is not enough also what differs.
function names(records) {
  const methods = records.map((r) => r.data.method ?? r.data.name);
  const twice = (i) => methods.filter((m) => m === methods[i]).length > 1;
  const differs = (key) => new Set(records.map((r) => JSON.stringify(r.data[key]))).size > 1;
  return records.map((r, i) => {
    if (!twice(i)) return methods[i];
    const more = ["model", "reward", "seed"].filter(differs).map((key) => (key === "seed" ? `seed ${r.data.seed}` : r.data[key]));
    return [methods[i], ...(more.length ? more : [r.data.name])].join(", ");
  });
}

function fairness(records) {
  const several = (key) => new Set(records.map((r) => JSON.stringify(r.data[key]))).size > 1;
  const found = ["prompt", "seed", "model"].filter(several);
  if (several("reward")) return "These runs have different rewards: their numbers have no common scale.";
  if (found.length) return `These runs differ in ${found.join(" and ")}: a difference in gain may come from that, and not from the method.`;
  return "";
}

export function Several({ id, fail }) {
  const ids = [...new Set(id.split("/").filter(Boolean))];
  const runs = useRuns(ids, fail);
  const look = useLook();
  const [axis, setAxis] = useState("nfe");
  const here = ids.map((one) => runs[one]);
  const records = here.filter((one) => one?.record).map((one) => one.record);
  if (ids.length < 2) return html`<div class="empty"><h1>Choose two runs</h1><p>Mark runs on the first screen, then press Compare.</p><a class="button" href="#/">All runs</a></div>`;
  if (here.some((one) => !one)) return html`<h1 class="sr">Compare runs</h1>`;
  const labels = names(records);
  const best = Math.max(...records.map((r) => r.gain).filter(Number.isFinite));
  const warning = fairness(records);
  const same = !warning && records.map((r) => r.baseline).find(Boolean);
  const shared = (key) => records.length > 0 && new Set(records.map((r) => r.data[key])).size === 1;
  return html`<div class="top"><b>${records.length} runs</b>${shared("model") && html`<span>${records[0].data.model}</span>`}${shared("reward") && html`<span>${records[0].data.reward}</span>`}${shared("seed") && html`<span>seed ${records[0].data.seed}</span>`}</div>
    <h1 dir="auto">${shared("prompt") ? records[0].data.prompt : "Runs side by side"}</h1>
    ${warning && records.length > 1 && html`<p class="note-box">${warning}</p>`}
    <div class="tools" role="group" aria-label="Zoom of all pictures"><button type="button" aria-label="Enlarge all" onClick=${() => look.zoom(1.5)}>+</button>
      <button type="button" aria-label="Make all smaller" onClick=${() => look.zoom(1 / 1.5)}>−</button><span>one zoom for all</span>
      ${shared("prompt") && records.filter((r) => r.best).length > 1 && html`<span class="next"><a class="quiet" href="#/across/${ids.join("/")}">Judge blind</a></span>`}</div>
    <section class="several ${look.enlarged ? "enlarged" : ""}" aria-label="Winners" ...${look.hands}>
      ${same && html`<${Plain} record=${records.find((r) => r.baseline)} style=${look.style} />`}
      ${ids.map((one) => {
        const at = records.indexOf(runs[one].record);
        return at < 0 ? html`<article class="card column" key=${one}><div class="blank square"></div><p class="problem">${runs[one].problem}</p></article>`
          : html`<${Column} key=${one} record=${records[at]} label=${labels[at]} colour=${COLOURS[at % COLOURS.length]} wins=${!warning && records[at].gain === best && best > 0} style=${look.style} prompt=${!shared("prompt")} />`;
      })}
    </section>
    ${!warning.includes("rewards") && records.length > 0 && html`
      <h2>Best so far <small>the best reward yet of each run</small></h2>
      <div class="tools" role="group" aria-label="Against what">${[["nfe", "against NFE"], ["seconds", "against seconds"]].map(([word, text]) => html`<button type="button" aria-pressed=${axis === word} onClick=${() => setAxis(word)}>${text}</button>`)}</div>
      <figure class="card several-chart" tabindex="0"><${Curves} records=${records} labels=${labels} colours=${COLOURS} axis=${axis} />
        <figcaption class="key">${labels.map((label, i) => html`<span><i style=${{ background: COLOURS[i % COLOURS.length] }}></i>${label}</span>`)}${same && html`<span><i class="base"></i>baseline</span>`}</figcaption></figure>`}
    ${records.length > 1 && html`<h2>Terms of the winners <small>each part of the reward, and what was spent</small></h2><${Table} records=${records} labels=${labels} />`}`;
}

function Plain({ record, style }) {
  return html`<article class="card column base"><div class="pane"><img src=${picture(record.data.id, record.baseline.image)} alt="Baseline: the plain sample of the seed" style=${style} draggable="false" /></div>
    <h3><i class="swatch" style=${{ background: "var(--base)" }}></i>baseline</h3><p class="gain none num">${number(record.baseline.reward)}</p><p class="small">the plain sample of the same seed</p></article>`;
}

function Column({ record, label, colour, wins, style, prompt }) {
  const { data, best, gain } = record;
  return html`<article class="card column ${wins ? "win" : ""}">
    <div class="pane">${best ? html`<img src=${picture(data.id, best.image)} alt="Winner of ${label}: candidate ${best.index}" style=${style} draggable="false" data-digest=${best.image} />`
      : html`<div class="blank square ${data.state.active ? "busy" : ""}"></div>`}</div>
    <h3><i class="swatch" style=${{ background: colour }}></i><a href="#/run/${data.id}">${label}</a></h3>
    <p class="gain num ${gain > 0 ? "" : gain < 0 ? "down" : "none"}">${Number.isFinite(gain) ? number(gain, true) : "–"}</p>
    ${prompt && html`<p class="small" dir="auto">${data.prompt.slice(0, 200)}</p>`}
    <p class="small">${best ? html`reward <b class="num">${number(best.reward)}</b> · ` : ""}${count(record.candidates.length)} pictures · ${duration(data.spent?.seconds)}</p>
    ${data.state.word !== "finished" && html`<p class="state ${data.state.word}">${data.state.word}</p>`}
  </article>`;
}

function Table({ records, labels }) {
  const terms = [...new Set(records.flatMap((r) => r.terms))];
  const costs = ["nfe", "seconds", ...["backwards", "decodes", "scores", "dollars", "questions"].filter((name) => records.some((r) => r.data.spent?.[name] > 0))];
  const term = (r, name) => (r.best ? Number(r.best.terms[name] ?? NaN) : NaN);
  return html`<div class="card scroll" tabindex="0" role="region" aria-label="Numbers of the runs"><table><thead><tr><th scope="col"></th>${labels.map((label) => html`<th scope="col">${label}</th>`)}</tr></thead><tbody>
    <tr class="total"><th scope="row">reward of the winner</th>${records.map((r) => html`<td>${number(r.best?.reward)}</td>`)}</tr>
    ${terms.length > 1 && terms.map((name) => html`<tr><th scope="row">${name}</th>${records.map((r) => html`<td>${number(term(r, name))}</td>`)}</tr>`)}
    <tr><th scope="row">gain over the baseline</th>${records.map((r) => html`<td class=${r.gain > 0 ? "up" : r.gain < 0 ? "down" : ""}>${number(r.gain, true)}</td>`)}</tr>
    ${costs.map((name) => html`<tr><th scope="row">${resource(name)}</th>${records.map((r) => html`<td>${amount(name, r.data.spent?.[name])}</td>`)}</tr>`)}
  </tbody></table></div>`;
}
