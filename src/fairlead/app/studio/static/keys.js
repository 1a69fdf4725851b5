// The list of all keys.
import { html, useEffect, useRef } from "./view.js";

const ALL = [
  ["/", "write a prompt"],
  ["← → ↑ ↓", "walk through the pictures"],
  ["Enter", "enlarge the picture, or start the search from the prompt"],
  ["s", "star"],
  ["x", "reject"],
  ["n", "write a note"],
  ["c", "compare with the pinned picture, else with the best"],
  ["p", "pin the picture for comparing"],
  ["m", "more like this: a new run from its noise"],
  ["d", "different from this: a new run that repels it"],
  ["u", "take the last star, reject or note back"],
  ["j", "judge the pictures of a run two at a time"],
  ["k", "choose what to keep of a run"],
  ["1 2 = 0", "judge: the left one, the right one, a tie, both bad"],
  ["Esc", "close"],
  ["?", "this list"],
];

export function Keys({ open, onClose }) {
  const box = useRef(null);
  useEffect(() => {
    if (open) box.current?.showModal();
    else box.current?.close();
  }, [open]);
  return html`<dialog class="sheet card" ref=${box} onClose=${onClose} aria-labelledby="keys-title">
    <h2 id="keys-title">Keys</h2>
    <dl>${ALL.map(([key, words]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${words}</dd></div>`)}</dl>
    <button type="button" class="button" onClick=${onClose}>Close</button>
  </dialog>`;
}
