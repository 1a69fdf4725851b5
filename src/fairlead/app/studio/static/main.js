// The page: one bar, one screen at a time, chosen by the address after '#'.
import { html, render, useEffect, useState } from "./view.js";
import { get } from "./api.js";
import { Runs } from "./runs.js";
import { New } from "./new.js";
import { Run } from "./run.js";
import { Judge } from "./judge.js";
import { Across } from "./across.js";
import { Keep } from "./keep.js";
import { Several } from "./several.js";
import { Ask } from "./ask.js";
import { Keys } from "./keys.js";

const SCREENS = { "": Runs, new: New, run: Run, compare: Several, judge: Judge, across: Across, keep: Keep };

function route() {
  const [screen, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  return { screen: SCREENS[screen] ? screen : "", id: rest.join("/") };
}

function App() {
  const [at, go] = useState(route);
  const [locked, lock] = useState("");
  const [notice, setNotice] = useState(null);
  const [help, setHelp] = useState(false);
  const [asked, setAsked] = useState(null);
  useEffect(() => {
    const moved = () => {
      go(route());
      setNotice(null);
      scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    if (location.search) history.replaceState(null, "", "/" + location.hash);
    get("/api/session").catch((error) => lock(error.message));
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    const typed = (event) => {
      if (event.target.closest?.("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "?") setHelp(true);
      else if (event.key === "/") location.hash = "#/new";
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", typed);
    return () => removeEventListener("keydown", typed);
  }, []);
  const say = (text, undo = null) => setNotice(text ? { text, undo } : null);
  // `again` repeats with the yes of the person what the server did not do without it.
  const fail = (error, again = null) => {
    if (error.status === 401) lock(error.message);
    else if (error.code === "needs_yes" && again) setAsked({ text: error.message, yes: () => again([error.formula]) });
    else say(error.message);
  };
  const Screen = SCREENS[at.screen];
  const link = (screen, words) => html`<a href="#/${screen}" aria-current=${at.screen === screen ? "page" : undefined}>${words}</a>`;
  return html`
    <a class="skip" href="#content" onClick=${(e) => { e.preventDefault(); document.getElementById("content").focus(); }}>Skip to the content</a>
    <header class="shell"><nav aria-label="Screens">
      <a class="brand" href="#/"><img src="/static/icon.svg" alt="" width="22" height="22" />fairlead</a>
      ${link("", "Runs")}${link("new", "New")}
      <button class="quiet keys" type="button" onClick=${() => setHelp(true)} aria-label="All keys">?</button>
    </nav></header>
    <main id="content" tabindex="-1">
      ${locked ? html`<div class="empty"><h1>This page is locked</h1><p>${locked}</p></div>`
        : html`<${Screen} key=${at.screen + at.id} id=${at.id} say=${say} fail=${fail} />`}
    </main>
    <div class="notice" role="status" aria-live="polite">${notice && html`<p class="card">${notice.text}
      ${notice.undo && html`<button class="quiet" type="button" onClick=${notice.undo}>Undo</button>`}
      <button class="quiet" type="button" aria-label="Close the message" onClick=${() => setNotice(null)}>×</button></p>`}</div>
    <${Ask} asked=${asked} onDone=${() => setAsked(null)} />
    <${Keys} open=${help} onClose=${() => setHelp(false)} />`;
}

render(html`<${App} />`, document.getElementById("app"));
