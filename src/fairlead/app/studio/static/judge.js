// People judge: questions of a run that waits come first, then pairs of finished pictures, and the ranking below.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./view.js";
import { get, picture, post, stream } from "./api.js";
import { count } from "./words.js";

export const NAME = "fairlead-judge";
const TABLE = "fairlead-judge-table";
const FEWEST = [8, 16, 32, 64, "all"];
const KINDS = [["pair", "pairs"], ["pick", "any of four"]];
const AMONG = [["all", "the best"], ["starred", "starred"], ["not rejected", "not rejected"]];

export const kept = (store, name, otherwise) => {
  try {
    return JSON.parse(store.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
};

export function Judge({ id, say, fail }) {
  const [who, setWho] = useState(() => kept(localStorage, NAME, ""));
  const [table, setTable] = useState(() => kept(sessionStorage, TABLE, { kind: "pair", of: "16", among: "all" }));
  const [data, setData] = useState(null);
  const [missing, setMissing] = useState("");
  const [waits, setWaits] = useState(null); // how the run stands, while it is computed
  const [lost, setLost] = useState("");
  const busy = useRef(false);
  const latest = useRef(0);
  const sit = useRef({});
  const seen = useRef(false);
  const missed = useRef(false);
  sit.current = { who, ...table };
  seen.current = Boolean(data?.shown);

  // What this person looks at stays until they have answered it, whatever others do meanwhile.
  function take(found, asked) {
    setData((now) => {
      const same = now && asked.who === now.asked.who && found.turn === now.turn && found.kind === now.kind && asked.of === now.asked.of && asked.among === now.asked.among;
      return { ...found, asked, shown: same && now.shown ? now.shown : found.shown };
    });
  }
  function read() {
    const mine = ++latest.current;
    const asked = { ...sit.current };
    return get(`/api/runs/${id}/judge?${new URLSearchParams(asked)}`)
      .then((found) => mine === latest.current && take(found, asked))
      .catch((error) => error.status !== 404 && fail(error)); // it has no record yet, or the stream says that it is gone
  }
  // What is announced while an answer is on its way is read once it has arrived.
  function news() {
    if (busy.current) missed.current = true;
    else read();
  }
  useEffect(() => {
    localStorage.setItem(NAME, JSON.stringify(who));
    sessionStorage.setItem(TABLE, JSON.stringify(table));
    read();
  }, [id, who, table]);
  useEffect(() => stream(`/api/runs/${id}/events`, "", {
    people: news,
    candidates: () => seen.current || news(),
    state: (found) => setWaits(found.state),
    gone: (found) => setMissing(found.sentence),
    lost: (error) => (error.status === 404 ? setMissing(error.message) : error.status === 401 ? fail(error) : setLost(error.message)),
    found: () => {
      setLost("");
      read();
    },
  }), [id]);

  async function send(path, body) {
    if (busy.current) return;
    busy.current = true;
    latest.current += 1;
    const asked = { ...sit.current };
    try {
      const found = await post(`/api/runs/${id}/${path}`, body);
      if (found.turn === undefined) await read();
      else take(found, asked);
      say("");
    } catch (error) {
      fail(error);
      await read();
    } finally {
      busy.current = false;
      if (missed.current) read();
      missed.current = false;
    }
  }
  const judge = (answer) => send("judge", { ...sit.current, turn: data.turn, candidates: data.shown.map((one) => one.candidate), answer });
  const undo = () => send("judge/undo", { ...sit.current, turn: data.turn });
  const answer = (question, text) => send(`questions/${question.name}`, { answer: text });

  if (missing) return html`<div class="empty"><h1>This run is not here</h1><p>${missing}</p><a class="button" href="#/">All runs</a></div>`;
  if (!data) return html`<h1 class="sr">Judge</h1><p class="small" role="status">${waits?.active ? "The first pictures are being made." : ""}</p>`;
  const question = data.questions[0];
  const back = html`<a class="quiet" href="#/run/${id}">The run</a>`;
  return html`
    ${lost && html`<div class="note-box" role="status">${lost}</div>`}
    <div class="top"><b>Judge</b><span>${data.name}</span></div>
    <div class="judge-head"><h1 class=${data.prompt.length > 120 ? "long" : ""}>${data.prompt}</h1>${back}</div>
    ${question ? html`<${Question} key=${question.name} run=${id} question=${question} many=${data.questions.length} answer=${answer} />`
      : html`<${Finished} run=${id} data=${data} waits=${waits} who=${who} setWho=${setWho} table=${table} setTable=${setTable} judge=${judge} undo=${undo} />`}
    <${Ranking} run=${id} data=${data} />`;
}

// A key acts on what is on the screen: an ordinary effect would wait for a frame.
function useKeys(typed) {
  useLayoutEffect(() => {
    const heard = (event) => {
      if (event.target.closest?.("input:not([type=checkbox]), textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
      if (event.key === "Enter" && event.target.closest?.("button, a")) return;
      if (typed(event.key)) event.preventDefault();
    };
    addEventListener("keydown", heard);
    return () => removeEventListener("keydown", heard);
  });
}

function Finished({ run, data, waits, who, setWho, table, setTable, judge, undo }) {
  const { shown } = data;
  const set = (name, value) => setTable({ ...table, [name]: value });
  const own = data.judges.find((one) => one.who === who)?.judgements ?? 0;
  const still = waits?.active && data.pictures < 2;
  return html`
    <form class="judge-table" onSubmit=${(e) => e.preventDefault()}>
      <label>Your name <input value=${who} placeholder="none" maxlength="60" autocomplete="off" onChange=${(e) => setWho(e.target.value.trim())} /></label>
      <label>Show <select value=${table.kind} onChange=${(e) => set("kind", e.target.value)}>${KINDS.map(([word, text]) => html`<option value=${word}>${text}</option>`)}</select></label>
      <label>of <select value=${table.of} onChange=${(e) => set("of", e.target.value)}>${FEWEST.map((n) => html`<option value=${String(n)}>${n === "all" ? "all" : n}</option>`)}</select></label>
      <label>among <select value=${table.among} onChange=${(e) => set("among", e.target.value)}>${AMONG.map(([word, text]) => html`<option value=${word}>${text}</option>`)}</select></label>
      <span class="small">${count(own)} judged by ${who || "you"}${data.judgements > own ? `, ${count(data.judgements)} by all` : ""}</span>
    </form>
    ${!shown ? html`<div class="card judge-empty"><p>${still ? "The first pictures are being made." : data.pictures < 2
        ? `Two pictures are needed to compare, and ${data.pictures === 1 ? "only one is" : "none are"} here.` : "You have judged every pair of these pictures."}</p>
        ${own > 0 && html`<button type="button" class="button" onClick=${undo}>Undo <kbd>u</kbd></button>`}</div>`
      : data.kind === "pair" ? html`<${Pair} key=${data.turn} run=${run} images=${shown.map((one) => one.image)} answer=${judge} undo=${undo} bad=${true} turn=${data.turn} />`
      : html`<${Pick} key=${data.turn} run=${run} images=${shown.map((one) => one.image)} answer=${judge} undo=${undo} turn=${data.turn} />`}`;
}

// Two pictures without a number or a name: which is better?
export function Pair({ run, images, runs = images.map(() => run), answer, undo, bad, turn }) {
  const answers = { 1: "1", 2: "2", "=": "tie", t: "tie", ...(bad ? { 0: "both bad" } : {}) };
  useKeys((key) => {
    if (key === "u" && undo) undo();
    else if (key in answers) answer(answers[key]);
    else return false;
    return true;
  });
  return html`<section class="judge-pair" aria-label="Which is better?" data-turn=${turn} data-images=${images.join(" ")}>
    ${images.map((image, i) => html`<button type="button" class="card" onClick=${() => answer(String(i + 1))} aria-label=${i === 0 ? "The left one is better" : "The right one is better"}>
      <img src=${picture(runs[i], image)} alt=${i === 0 ? "Left" : "Right"} /><span><kbd>${i + 1}</kbd> ${i === 0 ? "left is better" : "right is better"}</span></button>`)}
    <p class="judge-acts">
      <button type="button" class="button" onClick=${() => answer("tie")}><kbd>=</kbd> tie</button>
      ${bad && html`<button type="button" class="button" onClick=${() => answer("both bad")}><kbd>0</kbd> both bad</button>`}
      ${undo && html`<button type="button" class="button" onClick=${undo}><kbd>u</kbd> undo</button>`}
    </p></section>`;
}

// Several pictures: choose any number of them.
function Pick({ run, images, answer, undo, turn }) {
  const [chosen, choose] = useState([]);
  const flip = (i) => choose((now) => (now.includes(i) ? now.filter((j) => j !== i) : [...now, i]));
  const done = () => answer([...chosen].sort((a, b) => a - b).map((i) => i + 1).join(",") || "none");
  useKeys((key) => {
    if (/^[1-9]$/.test(key) && Number(key) <= images.length) flip(Number(key) - 1);
    else if (key === "Enter") done();
    else if (key === "0") answer("none");
    else if (key === "u" && undo) undo();
    else return false;
    return true;
  });
  return html`<section class="judge-pick" aria-label="Which are good?" data-turn=${turn}>
    <div class="judge-grid">${images.map((image, i) => html`<button type="button" class="card ${chosen.includes(i) ? "liked" : ""}" aria-pressed=${chosen.includes(i)} onClick=${() => flip(i)}>
      <img src=${picture(run, image)} alt="Picture ${i + 1}" /><span>${i < 9 && html`<kbd>${i + 1}</kbd>`} ${chosen.includes(i) ? "chosen" : ""}</span></button>`)}</div>
    <p class="judge-acts">
      <button type="button" class="button primary" onClick=${done}><kbd>Enter</kbd> ${chosen.length ? `choose ${chosen.length}` : "choose none"}</button>
      ${chosen.length > 0 && html`<button type="button" class="button" onClick=${() => answer("none")}><kbd>0</kbd> none</button>`}
      ${undo && html`<button type="button" class="button" onClick=${undo}><kbd>u</kbd> undo</button>`}
    </p></section>`;
}

const MARKS = ["", "liked", "disliked"];

// Previews of a picture while it forms: like some, dislike some, or let it go on by itself.
function Steer({ run, images, answer }) {
  const [marks, setMarks] = useState(() => images.map(() => 0));
  const turn = (i) => setMarks((now) => now.map((mark, j) => (i === j ? (mark + 1) % 3 : mark)));
  const done = () => answer(marks.map((mark, i) => (mark === 0 ? "" : mark === 1 ? `${i + 1}` : `-${i + 1}`)).filter(Boolean).join(",") || "none");
  useKeys((key) => {
    if (/^[1-9]$/.test(key) && Number(key) <= images.length) turn(Number(key) - 1);
    else if (key === "Enter") done();
    else if (key === "f") answer("finish");
    else return false;
    return true;
  });
  return html`<section class="judge-pick" aria-label="Which do you like?">
    <div class="judge-grid">${images.map((image, i) => html`<button type="button" class="card ${MARKS[marks[i]]}" onClick=${() => turn(i)} aria-label="Preview ${i + 1}${marks[i] ? `, ${MARKS[marks[i]]}` : ""}">
      <img src=${picture(run, image)} alt="" /><span>${i < 9 && html`<kbd>${i + 1}</kbd>`} ${MARKS[marks[i]]}</span></button>`)}</div>
    <p class="judge-acts">
      <button type="button" class="button primary" onClick=${done}><kbd>Enter</kbd> go on</button>
      <button type="button" class="button" onClick=${() => answer("finish")}><kbd>f</kbd> enough: finish this picture without me</button>
    </p><p class="small">Press once for liked, twice for disliked.</p></section>`;
}

function Question({ run, question, many, answer }) {
  const Form = { pair: Pair, steer: Steer }[question.kind] ?? Pick;
  const pictures = question.images;
  return html`<p class="note-box" role="status" data-question=${question.name}>The run waits for your answer${many > 1 ? ` to ${many} questions` : ""}: <b>${question.text}</b></p>
    <${Form} run=${run} images=${pictures} answer=${(text) => answer(question, text)} turn=${question.name} />`;
}

function Ranking({ run, data }) {
  const file = (name, words) => html`<a class="button" href="/api/runs/${run}/judge/${name}" download>${words}</a>`;
  return html`<${Places} data=${data} of=${(place) => [run, `Candidate ${place.candidate}`]} files=${html`${file("ranking.csv", "Ranking as CSV")}${file("preferences.jsonl", "Preferences as JSONL")}
      <a class="button" href="#/keep/${run}">Choose what to keep</a>`} />`;
}

// The ranking; `of` says to which run a place belongs and what it is called, and which words stand beside it.
export function Places({ data, of, files }) {
  if (!data.ranking.length) return null;
  const { agreement, judges } = data;
  return html`<h2>Ranking <small>chance to be preferred to the average picture, with the interval that holds it in 95 of 100 cases</small></h2>
    <ol class="ranking card">${data.ranking.map((place, i) => html`<${Place} key=${place.image} place=${place} n=${i + 1} of=${of} />`)}</ol>
    <p class="judge-people">${judges.map((one) => html`<span>${one.who || "without a name"} <b class="num">${one.judgements}</b></span>`)}
      ${judges.length > 1 && html`<span>${agreement.alpha === null ? "no pair yet that two have judged" : html`agreement <b class="num">${agreement.alpha.toFixed(2).replace("-", "−")}</b> over ${agreement.pairs} shared pairs (Krippendorff's alpha)`}</span>`}</p>
    <p class="judge-acts left">${files}</p>`;
}

function Place({ place, n, of }) {
  const [run, name, more] = of(place);
  return html`<li><b class="num">${n}</b><img src=${picture(run, place.image, true)} alt=${name} loading="lazy" />
    <div class="chance" role="img" aria-label="${percent(place.chance)}, ${percent(place.chance_low)} to ${percent(place.chance_high)}">
      <i class="bar-range" style=${{ left: percent(place.chance_low), right: percent(1 - place.chance_high) }}></i><i class="bar-dot" style=${{ left: percent(place.chance) }}></i></div>
    <span class="num">${percent(place.chance)}</span>
    <span class="small">${more}${more && " · "}place ${place.best_place === place.worst_place ? place.best_place : `${place.best_place} to ${place.worst_place}`} · seen ${place.seen}${place.bad ? ` · bad ${place.bad}` : ""}</span></li>`;
}

const percent = (value) => `${Math.round(100 * value)}%`;
