// The form of a new run, generated from the options and the registry.
import { html, useEffect, useMemo, useRef, useState } from "./view.js";
import { get, post } from "./api.js";

const KEPT = "fairlead-form";
const PAUSE = 350; // milliseconds without typing before the price is counted

const kept = () => {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
};

// What the form holds -> the options of a request; settings only of parts that are chosen.
function chosen(words) {
  const { settings = {}, ...options } = words;
  const names = [options.search, options.space, ...(options.steer ?? []), ...(options.intervene ?? [])].map((n) => n || "");
  const defaults = { search: "best_of", space: "noise" };
  const parts = new Set([...names, options.search || defaults.search, options.space || defaults.space]);
  const lines = Object.entries(settings).filter(([path, value]) => value !== "" && parts.has(path.split(".")[0]));
  const found = Object.fromEntries(Object.entries(options).filter(([, v]) => v !== "" && v !== false && !(Array.isArray(v) && !v.length)));
  if (lines.length) found.settings = lines.map(([path, value]) => `${path}=${value}`);
  return found;
}

export function New({ fail }) {
  const [form, setForm] = useState(null);
  const [words, setWords] = useState(kept);
  const [price, setPrice] = useState(null);
  const [counting, setCounting] = useState(false);
  const [busy, setBusy] = useState(false);
  const latest = useRef(0);
  useEffect(() => void get("/api/form").then(setForm).catch(fail), []);
  useEffect(() => {
    sessionStorage.setItem(KEPT, JSON.stringify(words));
    const mine = ++latest.current;
    if (!words.prompt?.trim()) {
      setPrice(null);
      setCounting(false);
      return;
    }
    setCounting(true);
    const timer = setTimeout(async () => {
      const found = await post("/api/price", { options: chosen(words) }).catch((error) => ({ error: error.message }));
      if (mine === latest.current) {
        setPrice(found);
        setCounting(false);
      }
    }, PAUSE);
    return () => clearTimeout(timer);
  }, [words]);
  const set = (name, value) => setWords((now) => ({ ...now, [name]: value }));
  const setting = (path, value) => setWords((now) => ({ ...now, settings: { ...now.settings, [path]: value } }));

  async function start() {
    if (busy || !words.prompt?.trim()) return;
    setBusy(true);
    try {
      const { run } = await post("/api/jobs", { options: chosen(words) });
      location.hash = `#/run/${run}`;
    } catch (error) {
      setPrice({ ...price, error: error.message });
      setBusy(false);
    }
  }
  const enter = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      start();
    }
  };

  const option = useMemo(() => Object.fromEntries((form?.options ?? []).map((o) => [o.name, o])), [form]);
  if (!form) return html`<h1 class="sr">New run</h1>`;
  const rest = form.options.filter((o) => !form.first.includes(o.name) && o.name !== "settings");
  const control = rest.filter((o) => ["steerings", "interventions"].includes(o.kind));
  const model = rest.filter((o) => o.section === "model");
  const other = rest.filter((o) => !control.includes(o) && !model.includes(o));
  const field = (o) => html`<${Field} key=${o.name} o=${o} items=${form.items} words=${words} set=${set} setting=${setting} />`;
  return html`<form class="new" onSubmit=${(e) => { e.preventDefault(); start(); }}>
    <h1 class="sr">New run</h1>
    <div class="sheet">
      <label class="prompt card"><span class="sr">${option.prompt.help}</span>
        <textarea rows="3" autofocus placeholder="What should the picture show?" value=${words.prompt ?? ""} onInput=${(e) => set("prompt", e.target.value)} onKeyDown=${enter} /></label>
      <div class="fields">${form.first.filter((n) => n !== "prompt").map((name) => field(option[name]))}</div>
      <details><summary>Search and sampling</summary><div class="fields">${other.map(field)}</div></details>
      <details><summary>Steering and interventions</summary><div class="fields">${control.map(field)}</div></details>
      <details><summary>Model</summary><div class="fields">${model.map(field)}</div></details>
    </div>
    <aside class="card facts">
      <${Price} price=${price} counting=${counting} />
      <button class="button primary" type="submit" disabled=${busy || !words.prompt?.trim()}>Search</button>
      ${price?.command && html`<details><summary>The same as a command</summary>
        <code>${price.command}</code><p class="small">In Python:</p><code>${price.python}</code></details>`}
    </aside>
  </form>`;
}

function Price({ price, counting }) {
  if (!price) return html`<p class="small">${counting ? "Counting the cost …" : "Write a prompt. What the search costs stands here before it starts."}</p>`;
  if (price.error) return html`<div class=${counting ? "stale" : ""} role="alert"><p class="problem">${price.error}</p></div>`;
  return html`<div class=${counting ? "stale" : ""}>
    <p class="label">what it costs</p><p class="price">${price.sentence}</p>
    ${price.warnings?.map((text) => html`<p class="note-box">${text}</p>`)}</div>`;
}

function Field({ o, items, words, set, setting }) {
  const id = `f-${o.name}`;
  const value = words[o.name] ?? "";
  const registered = items[o.kind] ?? [];
  const hint = o.shown_default ?? (o.default === null || o.default === false ? "" : String(o.default));
  let input;
  if (o.type === "list" && registered.length && o.kind !== "rewards") {
    const many = Array.isArray(value) ? value : [];
    const flip = (name) => set(o.name, many.includes(name) ? many.filter((n) => n !== name) : [...many, name]);
    return html`<fieldset class="field-box wide"><legend>${o.name}</legend><p class="small">${o.help}</p>
      ${registered.map((item) => html`<label class="check"><input type="checkbox" checked=${many.includes(item.name)} onChange=${() => flip(item.name)} />
        <span><b>${item.name}</b> ${item.what}</span></label>
        ${many.includes(item.name) && html`<${Settings} item=${item} words=${words} setting=${setting} />`}`)}</fieldset>`;
  }
  if (o.type === "bool") {
    return html`<label class="check field-box"><input type="checkbox" checked=${Boolean(value)} onChange=${(e) => set(o.name, e.target.checked)} />
      <span><b>${o.name}</b> ${o.help}</span></label>`;
  }
  if (["searches", "spaces", "samplers"].includes(o.kind)) {
    input = html`<select id=${id} value=${value} onChange=${(e) => set(o.name, e.target.value)}>
      <option value="">${hint}</option>${registered.filter((i) => i.name !== o.default).map((i) => html`<option value=${i.name}>${i.name}</option>`)}</select>`;
  } else {
    const list = o.kind ? `l-${o.name}` : undefined;
    const take = (text) => set(o.name, o.type === "list" ? (text ? [text] : []) : text);
    const number = o.type === "int" || o.type === "float";
    input = html`<input id=${id} list=${list} inputmode=${number ? "decimal" : undefined} placeholder=${hint} autocomplete="off" spellcheck="false"
      value=${Array.isArray(value) ? value[0] ?? "" : value} onInput=${(e) => take(e.target.value)} />
      ${list && html`<datalist id=${list}>${registered.map((i) => html`<option value=${i.name}>${i.what}</option>`)}</datalist>`}`;
  }
  const part = registered.find((i) => i.name === (value || o.default));
  const settable = ["searches", "spaces"].includes(o.kind) && part;
  return html`<div class="field-box ${settable && part.settings.length ? "wide" : ""}"><label for=${id}>${o.name.replaceAll("_", " ")}</label>${input}
    <p class="small">${settable ? part.what || o.help : o.help}</p>
    ${settable && html`<${Settings} item=${part} words=${words} setting=${setting} />`}</div>`;
}

function Settings({ item, words, setting }) {
  if (!item.settings.length) return null;
  return html`<div class="settings">${item.settings.map((s) => {
    const path = `${item.name}.${s.name}`;
    return html`<label>${s.name}<input placeholder=${s.default ?? "required"} autocomplete="off" spellcheck="false"
      value=${words.settings?.[path] ?? ""} onInput=${(e) => setting(path, e.target.value)} /></label>`;
  })}</div>`;
}
