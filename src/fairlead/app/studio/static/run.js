// One run while it is searched and afterwards: winner beside baseline, the gallery, the curve, the terms, what next.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./view.js";
import { get, picture, post, stream } from "./api.js";
import { Chart } from "./chart.js";
import { Compare } from "./compare.js";
import { Forming } from "./forming.js";
import { Gallery } from "./gallery.js";
import { From, VERB_KEYS, draw as descend } from "./offspring.js";
import { Later } from "./later.js";
import { Lineage } from "./lineage.js";
import { Record } from "./record.js";
import { Requeue } from "./requeue.js";
import { Scatter } from "./scatter.js";
import { Slider } from "./slider.js";
import { Viewer } from "./viewer.js";
import { amount, count, duration, number, resource } from "./words.js";

const FRAME = 30; // milliseconds; a timer, because a hidden tab has no frames

export function Run({ id, say, fail }) {
  const [record, setRecord] = useState(null);
  const [, redraw] = useState(0);
  const [lost, setLost] = useState("");
  const [missing, setMissing] = useState("");
  const [selected, select] = useState(null);
  const [open, setOpen] = useState(null);
  const [compared, compare] = useState(null);
  const [pinned, setPinned] = useState(null);
  const [left, setLeft] = useState(null);
  const [writing, write] = useState(false);
  const [order, setOrder] = useState("reward");
  const [only, setOnly] = useState("all");
  const done = useRef([]);
  const columns = useRef(1);
  const due = useRef(0);
  const draw = () => {
    due.current ||= setTimeout(() => {
      due.current = 0;
      redraw((n) => n + 1);
    }, FRAME);
  };

  useEffect(() => {
    let close = () => {};
    let gone = false;
    let own = null;
    const read = () => get(`/api/runs/${id}`).then((data) => {
      if (gone) return;
      if (own) own.take(data);
      else setRecord((own = new Record(data)));
      draw();
    });
    const end = (data) => setMissing(data.sentence || data.message);
    read().then(() => {
      if (gone) return;
      close = stream(`/api/runs/${id}/events`, own.data.position, {
        candidates(data) {
          const first = own.data.spent === undefined;
          own.add(data.candidates);
          if (data.spent) own.data.spent = data.spent;
          if (first) read();
          draw();
        },
        marks(data) {
          data.marks.forEach((mark) => own.mark(mark));
          draw();
        },
        state(data) {
          const ended = own.data.state?.active && !data.state.active;
          own.data = { ...own.data, ...data };
          if (ended) read();
          draw();
        },
        people(data) {
          own.data.people = data;
          draw();
        },
        progress(data) {
          own.progress = data;
          draw();
        },
        gone: end,
        lost: (error) => (error.status === 404 ? end(error) : error.status === 401 ? fail(error) : setLost(error.message)),
        found: () => setLost(""),
      });
    }).catch((error) => (error.status === 404 ? end(error) : fail(error)));
    return () => {
      gone = true;
      close();
    };
  }, [id]);

  const version = record?.version;
  const ordered = useMemo(() => {
    if (!record) return [];
    const every = order === "reward" ? record.ranked : record.candidates;
    if (only === "starred") return every.filter((c) => record.has(c.index, "star"));
    return only === "kept" ? every.filter((c) => !record.has(c.index, "reject")) : every;
  }, [version, order, only]);

  async function mark(index, kind, value, back = false) {
    const before = record.marks.get(index)?.[kind] ?? "";
    try {
      record.mark(await post(`/api/runs/${id}/marks`, { candidate: index, kind, value }));
      if (!back) done.current.push([index, kind, before]);
      draw();
    } catch (error) {
      fail(error);
    }
  }
  const flip = (index, kind) => mark(index, kind, record.has(index, kind) ? "" : "1");
  function note(index) {
    select(index);
    setOpen(index);
    write(true);
  }
  // A is the pinned picture, else the best; of the best itself, the baseline.
  function against(index) {
    const others = [pinned, record.best?.index, record.baseline?.index, record.candidates[1]?.index];
    return others.find((one) => one !== null && one !== undefined && one !== index);
  }
  function pin(index) {
    setPinned(index);
    setLeft(index);
  }
  function pair(index) {
    if (against(index) === undefined) return say("There is only one picture.");
    setOpen(null);
    select(index);
    setLeft(against(index));
    compare(index);
  }
  function undo() {
    const last = done.current.pop();
    if (last) mark(last[0], last[1], last[2], true);
    else say("There is nothing to take back.");
  }
  function walk(by) {
    if (!ordered.length) return;
    const on = compared ?? open ?? selected;
    const place = ordered.findIndex((c) => c.index === on);
    const next = ordered[Math.max(0, Math.min(ordered.length - 1, place < 0 ? 0 : place + by))];
    select(next.index);
    if (open !== null) setOpen(next.index);
    if (compared !== null) compare(next.index);
  }
  // An ordinary effect waits for a frame: a key pressed before it would act on what was selected before.
  useLayoutEffect(() => {
    const typed = (event) => {
      if (event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey || !record) return;
      const on = compared ?? open ?? selected;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns.current, ArrowDown: columns.current };
      const inDialog = event.target.closest?.("dialog");
      if (inDialog && open === null && compared === null) return;
      if (event.key in steps && ordered.length && (on !== null || event.target.closest?.(".wall"))) walk(steps[event.key]);
      else if (event.key === "s" && on !== null) flip(on, "star");
      else if (event.key === "x" && on !== null) flip(on, "reject");
      else if (event.key === "n" && on !== null && compared === null) note(on);
      else if (event.key === "c" && on !== null && compared === null) pair(on);
      else if (event.key === "p" && on !== null) {
        pin(on);
        if (compared === null) say(`Candidate ${on} is pinned: c compares others with it.`);
      }
      else if (event.key in VERB_KEYS && on !== null) descend(id, on, VERB_KEYS[event.key]).catch(fail);
      else if (event.key === "u") undo();
      else if (event.key === "j") location.hash = `#/judge/${id}`;
      else if (event.key === "k") location.hash = `#/keep/${id}`;
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", typed);
    return () => removeEventListener("keydown", typed);
  });

  if (missing) return html`<div class="empty"><h1>This run is not here</h1><p>${missing}</p><a class="button" href="#/">All runs</a></div>`;
  if (!record) return html`<h1 class="sr">Run</h1>`;
  const { data } = record;
  const act = (verb, body) => post(`/api/runs/${id}/${verb}`, body).catch((e) => fail(e, (agreed) => act(verb, { ...body, agreed })));
  return html`
    ${lost && html`<div class="note-box" role="status">${lost}</div>`}
    <div class="top">${data.model && html`<b>${data.model}</b>`}${data.reward && html`<span>${data.reward}</span>`}<span>${data.name}</span></div>
    <h1 dir="auto" class=${data.prompt.length > 120 ? "long" : ""}>${data.prompt}</h1>
    <${From} parent=${data.parent} />
    ${data.people?.questions > 0 && html`<p class="note-box asks" role="status">The run waits for your answer. <a class="button primary" href="#/judge/${id}">Answer</a></p>`}
    ${data.notes?.length > 0 && !data.state.active && html`<div class="note-box"><ul>${data.notes.map((n) => html`<li>${n}</li>`)}</ul></div>`}
    <section class="stage" aria-label="Winner and baseline">
      <${Pair} record=${record} onOpen=${setOpen} />
      <${Facts} record=${record} act=${act} onPick=${setOpen} />
    </section>
    <${Forming} record=${record} fail=${fail} />
    ${record.candidates.length > 0 && html`
      <h2>Pictures <small>${count(record.candidates.length)}${ordered.length !== record.candidates.length ? `, ${count(ordered.length)} shown` : ""}</small></h2>
      <div class="tools" role="group" aria-label="Order and choice">
        ${[["reward", "best first"], ["made", "in order"]].map(([word, text]) => html`<button type="button" aria-pressed=${order === word} onClick=${() => setOrder(word)}>${text}</button>`)}
        <i></i>
        ${[["all", "all"], ["starred", "starred"], ["kept", "not rejected"]].map(([word, text]) => html`<button type="button" aria-pressed=${only === word} onClick=${() => setOnly(word)}>${text}</button>`)}
        <span class="next"><a class="quiet" href="#/judge/${id}">Judge <kbd>j</kbd></a><a class="quiet" href="#/keep/${id}">Keep <kbd>k</kbd></a></span>
      </div>
      ${!ordered.length && html`<p class="small">No picture is ${only === "starred" ? "starred: press s on one" : "left"}.</p>`}
      <${Gallery} record=${record} order=${ordered} selected=${selected} onSelect=${select} onOpen=${setOpen} columnsRef=${columns} />
      <section class="two below">
        <div><h2>Terms <small>what the reward is made of</small></h2><${Terms} record=${record} />
          ${data.meaning?.map((sentence) => html`<p class="small">${sentence}</p>`)}</div>
        <div class="charts"><div><h2>Best so far <small>the line is the best reward yet, a dot one candidate</small></h2>
          <figure class="card" tabindex="0"><${Chart} record=${record} axis="seconds" onPick=${setOpen} /></figure></div></div>
      </section>
      <${Later}>${() => html`<${Scatter} record=${record} onPick=${setOpen} /><${Lineage} record=${record} onPick=${setOpen} />`}<//>`}
    ${data.commands?.length > 0 && html`<h2>What next <small>each is a command</small></h2>
      <section class="card cmd">${[...(data.next_steps ?? []), ...data.commands].map(([what, line]) => html`<div><span>${what}</span><code>${line}</code></div>`)}</section>`}
    ${data.settings && html`<details><summary>Settings and versions</summary><div class="two">
      ${[data.settings, Object.entries(data.versions)].map((rows) => html`<div class="card scroll"><table class="pairs"><tbody>
        ${rows.map(([name, value]) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}</tbody></table></div>`)}</div></details>`}
    <${Viewer} record=${record} index=${open} walk=${walk} flip=${flip} pair=${pair} fail=${fail}
      onClose=${() => { setOpen(null); write(false); }} writing=${writing} write=${write} onNote=${(index, text) => mark(index, "note", text)} />
    <${Compare} record=${record} a=${left} b=${compared} walk=${walk} pin=${pin} onClose=${() => compare(null)} />`;
}

function Pair({ record, onOpen }) {
  const { best, baseline, data } = record;
  const waiting = data.state.active ? "The first pictures are being made." : "There is no picture yet.";
  if (!best) {
    return html`<figure class="card shot"><div class="blank square ${data.state.active ? "busy" : ""}"></div>
      <figcaption>${waiting}</figcaption></figure>`;
  }
  const winner = picture(data.id, best.image);
  const one = !baseline || baseline.index === best.index || Number.isNaN(baseline.reward);
  return html`<figure class="card shot win">
    ${one ? html`<img src=${winner} alt="Best found: candidate ${best.index}" onClick=${() => onOpen(best.index)} />`
      : html`<${Slider} left=${winner} right=${picture(data.id, baseline.image)} leftWords="Best found: candidate ${best.index}"
          rightWords="Baseline: the plain sample of the same seed" label="Show more of the best or of the baseline" />`}
    <figcaption><span><b>Best found</b> candidate ${best.index} <span class="num">${number(best.reward)}</span></span>
      ${!one && html`<span class="right"><b class="of-base">Baseline</b> <span class="num plain">${number(baseline.reward)}</span></span>`}
      ${one && baseline && html`<span>it is the baseline</span>`}</figcaption>
  </figure>`;
}

function Facts({ record, act, onPick }) {
  const { data, gain, progress } = record;
  const { state } = data;
  const css = gain > 0 ? "" : gain < 0 ? "down" : "none";
  const pictures = record.pictures;
  const finished = pictures.some((c) => c.refines !== null) ? "finished pictures" : "drafts";
  const kind = data.draft ? finished : "candidates";
  const beaten = pictures.filter((c) => record.baseline && c.reward > record.baseline.reward).length;
  const now = state.active ? progress : null;
  const spent = data.spent ?? {};
  return html`<aside class="card facts">
    <div><p class="label">gain in reward over the baseline</p>
      <div class="gain num ${css}">${Number.isNaN(gain) ? "–" : gain === 0 ? "none" : number(gain, true)}</div>
      <p class="small">${Number.isNaN(gain) ? "" : `${beaten} of ${pictures.length} ${kind} beat the baseline`}</p></div>
    <dl class="columns">
      ${Object.entries(data.limit ?? {}).map(([name, limit]) => html`<div><dt>${resource(name)} spent of budget</dt>
        <dd>${amount(name, spent[name] ?? 0)} of ${amount(name, limit)}<div class="bar"><i style=${{ width: `${Math.min(100, (100 * (spent[name] ?? 0)) / limit)}%` }}></i></div></dd></div>`)}
      ${now?.rate > 0 && html`<div><dt>speed</dt><dd>${now.rate >= 1 ? `${now.rate.toFixed(1)} pictures a second` : `${duration(1 / now.rate)} a picture`}</dd></div>`}
      ${!now && spent.seconds > 0 && html`<div><dt>time</dt><dd>${duration(spent.seconds)}</dd></div>`}
      <div><dt>state</dt><dd class="state ${state.word}">${state.word}</dd>${state.sentence && html`<dd class="small">${state.sentence}</dd>`}</div>
    </dl>
    ${state.active && data.held_out && html`<p class="note-box">${data.held_out}</p>`}
    ${record.candidates.length > 1 && html`<div class="charts curve" tabindex="0" role="group" aria-label="Best reward so far"><${Chart} record=${record} axis="nfe" onPick=${onPick} /></div>`}
    <${Acts} data=${data} act=${act} />
  </aside>`;
}

function Acts({ data, act }) {
  const { state } = data;
  const [more, setMore] = useState("");
  const doubled = Object.entries(data.limit ?? {}).map(([name, limit]) => `${name}=${2 * limit}`).join(",");
  const stop = html`<button class="button" type="button" onClick=${() => act("stop")}>Stop</button>`;
  if (state.word === "stuck") return html`<div class="acts"><${Requeue} state=${state} act=${act} />${stop}</div>`;
  if (state.active) return html`<p class="acts">${stop}</p>`;
  return html`<div class="acts">
    ${state.resumable && html`<button class="button primary" type="button" onClick=${() => act("resume")}>Resume</button>`}
    ${data.limit && html`<form onSubmit=${(e) => { e.preventDefault(); act("resume", { budget: more || doubled }); }}>
      <label>budget <input value=${more} placeholder=${doubled} onInput=${(e) => setMore(e.target.value)} autocomplete="off" /></label>
      <button class="button" type="submit">Go on</button></form>`}
  </div>`;
}

function Terms({ record }) {
  const names = record.terms;
  if (!names.length || !record.best) return null;
  const value = (c, name) => (c ? (name === null ? c.reward : Number(c.terms[name] ?? NaN)) : NaN);
  const rows = [...(names.length > 1 ? names : []), null].map((name) => {
    const every = record.candidates.map((c) => value(c, name)).filter(Number.isFinite);
    const before = value(record.baseline, name);
    const after = value(record.best, name);
    const mean = every.reduce((sum, v) => sum + v, 0) / every.length;
    return { name, before, after, change: after - before, mean };
  });
  const css = (v) => (v > 0 ? "up" : v < 0 ? "down" : "");
  return html`<div class="card scroll" tabindex="0" role="region" aria-label="Terms of the reward"><table><thead><tr><th scope="col">term</th><th scope="col">baseline</th><th scope="col">best</th><th scope="col">change</th><th scope="col">mean of all</th></tr></thead>
      <tbody>${rows.map((r) => html`<tr class=${r.name === null ? "total" : ""}><td>${r.name ?? `reward = ${record.data.reward}`}</td><td>${number(r.before)}</td><td>${number(r.after)}</td>
        <td class=${css(r.change)}>${number(r.change, true)}</td><td>${number(r.mean)}</td></tr>`)}</tbody></table></div>`;
}
