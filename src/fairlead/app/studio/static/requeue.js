// A run whose device no process serves any more: choose another one, and queue it again.
import { html, useState } from "./view.js";

export function Requeue({ state, act }) {
  const [device, choose] = useState("");
  if (state.word !== "stuck") return null;
  return html`<form class="requeue" onSubmit=${(e) => { e.preventDefault(); act("device", { device }); }}>
    ${state.devices.length > 1 && html`<label>device <select value=${device} onChange=${(e) => choose(e.target.value)}><option value="">the first that is free</option>
      ${state.devices.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>`}
    <button class="button primary" type="submit">Queue again</button></form>`;
}
