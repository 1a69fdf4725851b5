// Keep: between the best and the most different; the front of mean reward against Vendi score is the control.
import { html, useEffect, useRef, useState } from "./view.js";
import { get, picture } from "./api.js";
import { number } from "./words.js";
import { bounds, fitting, frame } from "./frame.js";

const HEIGHT = 320;
const FLOORS = [["median", "the median"], ["none", "none"]];

export function Keep({ id, fail }) {
  const [words, setWords] = useState({ k: 6, floor: "median", among: "all", judged: false });
  const [data, setData] = useState(null);
  const [at, setAt] = useState(null);
  const [problem, setProblem] = useState("");
  const [missing, setMissing] = useState("");
  const [busy, setBusy] = useState(true);
  const latest = useRef(0);
  const weight = useRef(0);
  useEffect(() => {
    const mine = ++latest.current;
    setBusy(true);
    const query = new URLSearchParams({ k: words.k, floor: words.floor, starred: Number(words.among === "starred"), judged: Number(words.judged) });
    get(`/api/runs/${id}/keep?${query}`).then((found) => {
      if (mine !== latest.current) return;
      setProblem("");
      setData(found);
      // Another count has other choices: stay at the weight that was chosen.
      setAt((now) => nearest(found.points, now === null ? found.default : weight.current));
    }).catch((error) => {
      if (mine !== latest.current) return;
      if (error.status === 404) setMissing(error.message);
      else if (error.status === 401) fail(error);
      else setProblem(error.message);
    }).finally(() => mine === latest.current && setBusy(false));
  }, [id, words]);
  const set = (name, value) => setWords({ ...words, [name]: value });
  const count = (value) => value >= 1 && value <= 200 && set("k", value);

  if (missing) return html`<div class="empty"><h1>This run is not here</h1><p>${missing}</p><a class="button" href="#/">All runs</a></div>`;
  const point = data?.points[Math.min(at, data.points.length - 1)];
  const last = data ? data.points.length - 1 : 0;
  if (point) weight.current = point.weight;
  return html`
    <div class="top"><b>Keep</b>${data && html`<span>${data.name}</span>`}</div>
    <div class="judge-head"><h1>${data?.prompt ?? "Keep"}</h1><a class="quiet" href="#/run/${id}">The run</a></div>
    <form class="judge-table" onSubmit=${(e) => e.preventDefault()}>
      <label>How many <span class="stepper"><button type="button" class="quiet" aria-label="One less" onClick=${() => count(words.k - 1)}>−</button>
        <input inputmode="numeric" value=${words.k} aria-label="How many" onChange=${(e) => count(Number.parseInt(e.target.value, 10) || words.k)} />
        <button type="button" class="quiet" aria-label="One more" onClick=${() => count(words.k + 1)}>+</button></span></label>
      <label>from <select value=${words.among} onChange=${(e) => set("among", e.target.value)}><option value="all">all pictures</option><option value="starred">starred pictures</option></select></label>
      <label>none below <select value=${words.floor} onChange=${(e) => set("floor", e.target.value)}>${FLOORS.map(([word, text]) => html`<option value=${word}>${text}</option>`)}</select></label>
      <label>good is <select value=${words.judged ? "judged" : "reward"} onChange=${(e) => set("judged", e.target.value === "judged")}><option value="reward">a high reward</option><option value="judged">what people said</option></select></label>
    </form>
    ${problem && html`<p class="note-box" role="alert">${problem}</p>`}
    ${!data && busy && html`<p class="small" role="status">Comparing the pictures with each other …</p>`}
    ${point && html`<section class="keep ${busy || problem ? "stale" : ""}" data-setting=${at}>
      <div class="card keep-front"><${Front} data=${data} at=${at} onPick=${setAt} judged=${words.judged} />
        <label class="keep-slider"><span>best</span><input type="range" min="0" max=${last} step="1" value=${last - at} aria-label="From the best to the most different"
          aria-valuetext="weight ${point.weight}: mean ${number(point.reward)}, Vendi ${number(point.vendi)}" onInput=${(e) => setAt(last - Number(e.target.value))} /><span>most different</span></label></div>
      <div class="keep-set">
        <p class="keep-numbers"><span>mean ${words.judged ? "strength" : "reward"} <b class="num">${number(point.reward)}</b></span><span>different pictures <b class="num">${point.vendi.toFixed(2)}</b> of ${data.k}</span></p>
        <div class="gallery keep-gallery" role="list" aria-label="Kept pictures">${point.kept.map((one) => html`<figure class="card" role="listitem" key=${one.candidate} data-index=${one.candidate}>
          <img src=${picture(id, one.image, true)} alt="Kept: candidate ${one.candidate}" /><figcaption><b class="num">${number(one.reward === null ? NaN : Number(one.reward))}</b><span>${one.candidate}</span></figcaption></figure>`)}</div>
        <p class="judge-acts left"><a class="button primary" href="/api/runs/${id}/kept.zip?candidates=${point.kept.map((one) => one.candidate).join(",")}" download>Download ${data.k} as a zip</a></p>
        <p class="small">The zip has each picture with its recipe. The same choice as a command, which also shows it in the report:</p>
        <code class="keep-command">${point.command}</code>
      </div></section>`}`;
}

function nearest(points, weight) {
  const last = points.findLastIndex((p) => p.weight <= weight);
  return Math.max(0, last);
}

function Front({ data, at, onPick, judged }) {
  const points = data.points.map((p, i) => ({ ...p, i })).filter((p) => p.reward !== null);
  if (!points.length) return null;
  const width = fitting(560);
  const { x, y, axes, left, top } = frame(width, HEIGHT, bounds(points.map((p) => p.vendi)), bounds(points.map((p) => p.reward)));
  const now = points.find((p) => p.i === at);
  return html`<svg class="chart" viewBox="0 0 ${width} ${HEIGHT}" role="img" aria-label="Mean ${judged ? "strength" : "reward"} against Vendi score, one dot for each setting">
    ${axes("Vendi score: how many different pictures")}
    <text class="label" x=${left - 8} y=${top - 8} text-anchor="start">mean ${judged ? "strength" : "reward"}</text>
    <polyline class="best line front-line" points=${points.map((p) => `${x(p.vendi).toFixed(1)},${y(p.reward).toFixed(1)}`).join(" ")} />
    ${points.map((p) => html`<circle class="dot front-dot" cx=${x(p.vendi)} cy=${y(p.reward)} r="6" data-dot=${p.i} onClick=${() => onPick(p.i)}><title>weight ${p.weight}: ${number(p.reward)}, ${number(p.vendi)}</title></circle>`)}
    ${now && html`<circle class="winner line" cx=${x(now.vendi)} cy=${y(now.reward)} r="8" />`}
  </svg>`;
}
