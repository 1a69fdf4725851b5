// How one picture formed: its clean predictions over the steps, made when somebody asks, by rendering it again.
import { html, useEffect, useState } from "./view.js";
import { post } from "./api.js";
import { count, duration } from "./words.js";

export function Strip({ run, index, fail }) {
  const [found, setFound] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => setFound(null), [run, index]);
  async function make() {
    setBusy(true);
    try {
      setFound({ ...(await post(`/api/runs/${run}/strip`, { candidate: index })), index });
    } catch (error) {
      fail(error);
    }
    setBusy(false);
  }
  if (!found || found.index !== index) {
    return html`<div class="verbs"><button type="button" disabled=${busy} onClick=${make}>${busy ? "Rendering it again …" : "How it formed"}</button></div>`;
  }
  const { cost } = found;
  return html`<div class="strip" role="group" aria-label="Candidate ${index} step by step" tabindex="0">
      ${found.steps.map(({ step, of }) => html`<figure key=${step}><img src="/api/runs/${run}/strip/${index}/${step}" alt="Step ${step} of ${of}" />
        <figcaption>${step}</figcaption></figure>`)}</div>
    <p class="strip-note">${found.identical ? "The last one is the recorded picture, bit for bit." : found.message}
      It took ${duration(cost.seconds)}: ${count(cost.nfe)} NFE for ${count(cost.pictures)} ${cost.pictures > 1 ? "pictures of its batch" : "picture"}. No budget paid for it.</p>`;
}
