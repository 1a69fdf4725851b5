// A question that is answered by yes or no before something happens that cannot be taken back.
import { html, useEffect, useRef } from "./view.js";

export function Ask({ asked, onDone }) {
  const box = useRef(null);
  useEffect(() => {
    if (asked && !box.current.open) box.current.showModal();
    if (!asked && box.current.open) box.current.close();
  }, [asked]);
  const yes = () => {
    onDone();
    asked.yes();
  };
  return html`<dialog class="sheet card" ref=${box} onClose=${onDone} aria-labelledby="ask-title">
    <h2 id="ask-title">Do you trust it?</h2>
    <p>${asked?.text}</p>
    <p class="acts"><button type="button" class="button" onClick=${onDone}>No</button>
      <button type="button" class="button" onClick=${yes}>Yes, I have read it</button></p>
  </dialog>`;
}
