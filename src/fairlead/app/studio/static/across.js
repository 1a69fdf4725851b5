// Blind pairs of pictures of several runs of one prompt, and the ranking over these runs.
import { html, useEffect, useRef, useState } from "./view.js";
import { get, post } from "./api.js";
import { NAME, Pair, Places, kept } from "./judge.js";
import { count } from "./words.js";

const OF = [["1", "the winner"], ["4", "the best 4"], ["16", "the best 16"], ["all", "all pictures"]];

export function Across({ id, say, fail }) {
  const ids = [...new Set(id.split("/").filter(Boolean))];
  const [who, setWho] = useState(() => kept(localStorage, NAME, ""));
  const [of, setOf] = useState("1");
  const [data, setData] = useState(null);
  const [problem, setProblem] = useState("");
  const busy = useRef(false);
  const missed = useRef(false);
  const latest = useRef(0);
  const query = new URLSearchParams(ids.map((one) => ["run", one]));

  // What is wanted while an answer is on its way is read once it has arrived.
  async function read() {
    if (busy.current) {
      missed.current = true;
      return;
    }
    const mine = ++latest.current;
    try {
      const found = await get(`/api/across?${query}&${new URLSearchParams({ who, of })}`);
      if (mine === latest.current) setData(found);
    } catch (error) {
      if (error.status === 401) fail(error);
      else setProblem(error.message);
    }
  }
  useEffect(() => {
    localStorage.setItem(NAME, JSON.stringify(who));
    read();
  }, [id, who, of]);

  async function send(path, more) {
    if (busy.current) return;
    busy.current = true;
    latest.current += 1;
    try {
      setData(await post(path, { runs: ids, who, of, turn: data.turn, ...more }));
      say("");
    } catch (error) {
      fail(error);
      missed.current = true;
    } finally {
      busy.current = false;
      if (missed.current) read();
      missed.current = false;
    }
  }
  const judge = (answer) => send("/api/across", { images: data.shown.map((one) => one.image), answer });
  const undo = () => send("/api/across/undo", {});
  const side = html`<a class="quiet" href="#/compare/${ids.join("/")}">The runs</a>`;
  if (problem) return html`<div class="empty"><h1>These runs are not judged together</h1><p>${problem}</p>${side}</div>`;
  if (!data) return html`<h1 class="sr">Judge across runs</h1>`;
  const own = data.judges.find((one) => one.who === who)?.judgements ?? 0;
  const file = (name, words) => html`<a class="button" href="/api/across/${name}?${query}" download>${words}</a>`;
  return html`<div class="top"><b>Judge across runs</b><span>${ids.length} runs</span></div>
    <div class="judge-head"><h1 dir="auto" class=${data.prompt.length > 120 ? "long" : ""}>${data.prompt}</h1>${side}</div>
    <form class="judge-table" onSubmit=${(e) => e.preventDefault()}>
      <label>Your name <input value=${who} placeholder="none" maxlength="60" autocomplete="off" onChange=${(e) => setWho(e.target.value.trim())} /></label>
      <label>Of each run <select value=${of} onChange=${(e) => setOf(e.target.value)}>${OF.map(([word, text]) => html`<option value=${word}>${text}</option>`)}</select></label>
      <span class="small">${count(own)} judged by ${who || "you"}${data.judgements > own ? `, ${count(data.judgements)} by all` : ""}</span>
    </form>
    ${data.shown ? html`<${Pair} key=${data.turn} images=${data.shown.map((one) => one.image)} runs=${data.shown.map((one) => one.run)} answer=${judge} undo=${undo} bad=${true} turn=${data.turn} />`
      : html`<div class="card judge-empty"><p>${data.pictures < 2 ? "These runs have found the same picture, so there is nothing to compare." : "You have judged every pair of these pictures."}</p>
        ${own > 0 && html`<button type="button" class="button" onClick=${undo}>Undo <kbd>u</kbd></button>`}</div>`}
    ${data.ranking.length > 0 && html`<details class="after"><summary>Show the ranking. It names the runs, so judge first</summary>
      <${Places} data=${data} of=${(place) => [place.run, `Candidate ${place.candidate} of ${place.name}`, html`<a href="#/run/${place.run}">${place.method}</a>`]}
        files=${html`${file("ranking.csv", "Ranking as CSV")}${file("preferences.jsonl", "Preferences as JSONL")}`} /></details>`}`;
}
