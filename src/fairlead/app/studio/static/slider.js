// Two pictures of one size, one over the other, with a line that can be moved by pointer, touch and keyboard.
import { html, useState } from "./view.js";

export function Slider({ left, right, leftWords, rightWords, label }) {
  const [at, setAt] = useState(50);
  return html`<div class="slider">
    <img src=${right} alt=${rightWords} draggable="false" />
    <img class="over" src=${left} alt=${leftWords} draggable="false" style=${{ clipPath: `inset(0 ${100 - at}% 0 0)` }} />
    <i style=${{ left: `${at}%` }} aria-hidden="true"></i>
    <input type="range" min="0" max="100" step="0.5" value=${at} aria-label=${label} onInput=${(e) => setAt(Number(e.target.value))} />
  </div>`;
}
