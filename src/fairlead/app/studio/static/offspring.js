// New runs from a picture: more like it, different from it, its noise with another prompt.
import { html, useEffect, useRef, useState } from "./view.js";
import { post } from "./api.js";

export const VERB_KEYS = { m: "like", d: "unlike" };

export async function draw(run, candidate, verb, prompt = "") {
  const body = { candidate, verb };
  if (prompt) body.prompt = prompt;
  const made = await post(`/api/runs/${run}/offspring`, body);
  location.hash = `#/run/${made.run}`;
}

// The verbs of one picture. The prompt is asked for in a line of its own.
export function Offspring({ record, index, fail }) {
  const [asking, ask] = useState(false);
  const box = useRef(null);
  useEffect(() => ask(false), [index]);
  useEffect(() => void (asking && box.current.select()), [asking]);
  const start = (verb, prompt) => draw(record.data.id, index, verb, prompt).catch(fail);
  if (asking) {
    return html`<form class="note" onSubmit=${(e) => { e.preventDefault(); if (box.current.value.trim()) start("like", box.current.value.trim()); }}>
      <input ref=${box} aria-label="Another prompt for the same noise" maxlength="2000" value=${record.data.prompt}
        onKeyDown=${(e) => { if (e.key === "Escape") { e.preventDefault(); ask(false); } }} />
      <button type="submit">Draw</button></form>`;
  }
  return html`<div class="verbs">
    <button type="button" onClick=${() => start("like")}>More like this</button>
    <button type="button" onClick=${() => start("unlike")}>Different from this</button>
    <button type="button" onClick=${() => ask(true)}>Same noise, new prompt …</button>
  </div>`;
}

// Where this run comes from, as a link to the other run.
export function From({ parent }) {
  if (!parent) return null;
  const words = parent.verb === "unlike" ? "Different from" : "From the noise of";
  return html`<p class="from"><img src="/api/runs/${parent.run}/images/${parent.picture}?thumb=1" alt="" onError=${(e) => e.target.remove()} />
    <span>${words} candidate ${parent.candidate} of <a href="#/run/${parent.run}">${parent.name}</a></span></p>`;
}
