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
  const { settings = {}, device, ...options } = words;
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
  const [agreed, agree] = useState([]); // formulas that somebody said yes to; forgotten with the page
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
      const found = await post("/api/price", { options: chosen(words), agreed }).catch((error) => ({ error: error.message }));
      if (mine === latest.current) {
        setPrice(found);
        setCounting(false);
      }
    }, PAUSE);
    return () => clearTimeout(timer);
  }, [words, agreed]);
  const set = (name, value) => setWords((now) => ({ ...now, [name]: value }));
  const setting = (path, value) => setWords((now) => ({ ...now, settings: { ...now.settings, [path]: value } }));

  async function start() {
    if (busy || !words.prompt?.trim()) return;
    setBusy(true);
    try {
      const { run } = await post("/api/jobs", { options: chosen(words), agreed, device: words.device });
      location.hash = `#/run/${run}`;
    } catch (error) {
      setPrice({ ...price, error: error.message, field: error.field ?? price?.field, formula: error.formula });
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
  const last = rest.filter((o) => !control.includes(o) && !model.includes(o));
  const other = [...last.filter((o) => o.name === "search"), ...last.filter((o) => o.name !== "search")];
  const wrong = price?.error ? { field: price.field, sentence: price.error } : null;
  const field = (o) => html`<${Field} key=${o.name} o=${o} items=${form.items} words=${words} set=${set} setting=${setting} wrong=${wrong} />`;
  const device = form.devices.length > 1 && html`<div class="field-box"><label for="f-device">device</label>
    <select id="f-device" value=${words.device ?? ""} onChange=${(e) => set("device", e.target.value)}><option value="">the first that is free</option>
    ${form.devices.map((name) => html`<option value=${name}>${name}</option>`)}</select><p class="small">Which of the studio's devices computes it.</p></div>`;
  return html`<form class="new" onSubmit=${(e) => { e.preventDefault(); start(); }}>
    <h1 class="sr">New run</h1>
    <div class="sheet">
      <label class="prompt card"><span class="sr">${option.prompt.help}</span>
        <textarea rows="3" dir="auto" autofocus placeholder="What should the picture show?" value=${words.prompt ?? ""} onInput=${(e) => set("prompt", e.target.value)} onKeyDown=${enter} /></label>
      <div class="fields">${form.first.filter((n) => n !== "prompt").map((name) => field(option[name]))}</div>
      <${Fold} title="Search and sampling" holds=${other} words=${words} wrong=${wrong}>${other.map(field)}${device}<//>
      <${Fold} title="Steering and interventions" holds=${control} words=${words} wrong=${wrong}>${control.map(field)}<//>
      <${Fold} title="Model" holds=${model} words=${words} wrong=${wrong}>${model.map(field)}<//>
    </div>
    <aside class="card facts">
      <${Price} price=${price} counting=${counting} agree=${(formula) => agree((now) => [...now, formula])} />
      <button class="button primary" type="submit" disabled=${busy || !words.prompt?.trim()}>Search</button>
      ${price?.command && html`<details><summary>The same as a command</summary>
        <code>${price.command}</code><p class="small">In Python:</p><code>${price.python}</code></details>`}
    </aside>
  </form>`;
}

// A part of the form that is folded, until something in it is chosen or wrong. It says what is chosen in it.
function Fold({ title, holds, words, wrong, children }) {
  const set = (o) => (Array.isArray(words[o.name]) ? words[o.name].length > 0 : Boolean(words[o.name]));
  const part = wrong?.field?.split(".")[0];
  const bad = holds.some((o) => o.name === part || [words[o.name] ?? []].flat().includes(part) || (part && (words[o.name] || o.default) === part));
  const said = holds.filter(set).map((o) => (words[o.name] === true ? o.name : `${o.name.replaceAll("_", " ")} ${[words[o.name]].flat().join(", ")}`));
  const box = useRef(null);
  useEffect(() => {
    if (bad) box.current.open = true;
  }, [bad]);
  return html`<details ref=${box}><summary>${title}${said.length > 0 && html`<span class="small">${said.join(" · ")}</span>`}</summary><div class="fields">${children}</div></details>`;
}

const short = (sentence) => (sentence.length > 300 ? sentence.slice(0, 300) + " …" : sentence);

function Price({ price, counting, agree }) {
  if (!price) return html`<p class="small">${counting ? "Counting the cost …" : "Write a prompt. What the search costs stands here before it starts."}</p>`;
  if (price.error) {
    return html`<div class=${counting ? "stale" : ""} role="alert"><p class="problem">${short(price.error)}</p>
      ${price.formula && html`<p><button class="button" type="button" onClick=${() => agree(price.formula)}>I have read it: go on</button></p>`}</div>`;
  }
  return html`<div class=${counting ? "stale" : ""}>
    <p class="label">what it costs</p><p class="price">${price.sentence}</p>
    ${price.warnings?.map((text) => html`<p class="note-box">${text}</p>`)}</div>`;
}

const Wrong = ({ wrong, name }) => wrong?.field === name && html`<p class="problem" id="wrong-${name}">${short(wrong.sentence)}</p>`;

function Field({ o, items, words, set, setting, wrong }) {
  const id = `f-${o.name}`;
  const value = words[o.name] ?? "";
  const registered = items[o.kind] ?? [];
  const hint = o.shown_default ?? (o.default === null || o.default === false ? "" : String(o.default));
  const faults = { "aria-invalid": wrong?.field === o.name, "aria-describedby": wrong?.field === o.name ? `wrong-${o.name}` : undefined };
  const settings = (item) => html`<${Settings} item=${item} words=${words} setting=${setting} wrong=${wrong} />`;
  let input;
  if (o.type === "list" && registered.length && o.kind !== "rewards") {
    const many = Array.isArray(value) ? value : [];
    const flip = (name) => set(o.name, many.includes(name) ? many.filter((n) => n !== name) : [...many, name]);
    return html`<fieldset class="field-box wide"><legend>${o.name}</legend><p class="small">${o.help}</p><${Wrong} wrong=${wrong} name=${o.name} />
      ${registered.map((item) => html`<label class="check"><input type="checkbox" checked=${many.includes(item.name)} onChange=${() => flip(item.name)} />
        <span><b>${item.name}</b> ${item.what}</span></label>
        ${many.includes(item.name) && settings(item)}`)}</fieldset>`;
  }
  if (o.type === "bool") {
    return html`<div class="field-box"><label class="check"><input type="checkbox" checked=${Boolean(value)} onChange=${(e) => set(o.name, e.target.checked)} ...${faults} />
      <span><b>${o.name}</b> ${o.help}</span></label><${Wrong} wrong=${wrong} name=${o.name} /></div>`;
  }
  if (["searches", "spaces", "samplers"].includes(o.kind)) {
    input = html`<select id=${id} value=${value} onChange=${(e) => set(o.name, e.target.value)} ...${faults}>
      <option value="">${hint}</option>${registered.filter((i) => i.name !== o.default).map((i) => html`<option value=${i.name}>${i.name}</option>`)}</select>`;
  } else {
    const list = o.kind ? `l-${o.name}` : undefined;
    const number = o.type === "int" || o.type === "float";
    // Of a list every entry has a line, and one more is there to be filled.
    const many = o.type === "list" ? [...(value || []), ""] : [value];
    const take = (text, i) => set(o.name, o.type === "list" ? many.map((one, j) => (i === j ? text : one)).filter(Boolean) : text);
    input = html`${many.map((one, i) => html`<input key=${i} id=${i ? `${id}-${i}` : id} aria-label=${i ? `${o.name}, entry ${i + 1}` : undefined} list=${list}
      inputmode=${number ? "decimal" : undefined} placeholder=${hint} autocomplete="off" spellcheck="false" value=${one} onInput=${(e) => take(e.target.value, i)} ...${faults} />`)}
      ${list && html`<datalist id=${list}>${registered.map((i) => html`<option value=${i.name}>${i.what}</option>`)}</datalist>`}`;
  }
  const part = registered.find((i) => i.name === (value || o.default));
  const settable = ["searches", "spaces"].includes(o.kind) && part;
  return html`<div class="field-box ${settable && part.settings.length ? "wide" : ""}"><label for=${id}>${o.name.replaceAll("_", " ")}</label>${input}
    <${Wrong} wrong=${wrong} name=${o.name} />
    <p class="small">${settable ? part.what || o.help : o.help}</p>
    ${settable && settings(part)}</div>`;
}

// The settings of one part: a field each, by its type, with its range and its sentence.
function Settings({ item, words, setting, wrong }) {
  if (!item.settings.length) return null;
  const path = (s) => `${item.name}.${s.name}`;
  const own = item.settings.filter((s) => words.settings?.[path(s)]);
  const bad = item.settings.some((s) => path(s) === wrong?.field);
  const many = item.settings.length;
  return html`<details class="settings-of" open=${bad || own.length > 0}><summary>${many} setting${many > 1 ? "s" : ""} of ${item.name}</summary>
    <div class="settings">${item.settings.map((s) => html`<${Setting} key=${path(s)} s=${s} path=${path(s)} value=${words.settings?.[path(s)] ?? ""}
      put=${(value) => setting(path(s), value)} wrong=${wrong} />`)}</div></details>`;
}

function Setting({ s, path, value, put, wrong }) {
  const id = `s-${path.replace(".", "-")}`;
  const faults = { "aria-invalid": wrong?.field === path, "aria-describedby": `${id}-what` };
  const fine = s.sentence && html`<p class="small" id="${id}-what">${s.sentence}${s.range && !["choice", "switch"].includes(s.type) && html` <span class="range">${s.range}</span>`}</p>`;
  const below = html`${fine}<${Wrong} wrong=${wrong} name=${path} />`;
  if (s.type === "switch") {
    const on = (value || s.default) === "true";
    const flip = (checked) => put(String(checked) === s.default ? "" : checked ? "True" : "False");
    return html`<div class="setting"><label class="check" for=${id}><input id=${id} type="checkbox" checked=${value ? value === "True" : on} onChange=${(e) => flip(e.target.checked)} ...${faults} /><b>${s.name}</b></label>${below}</div>`;
  }
  const input = s.type === "choice"
    ? html`<select id=${id} value=${value} onChange=${(e) => put(e.target.value)} ...${faults}><option value="">${s.default || "–"}</option>
        ${s.choices.filter((c) => c !== s.default).map((c) => html`<option value=${c === "true" ? "True" : c === "false" ? "False" : c}>${c}</option>`)}</select>`
    : html`<input id=${id} inputmode=${["number", "int"].includes(s.type) ? "decimal" : undefined} placeholder=${s.default || "–"} autocomplete="off" spellcheck="false"
        value=${value} onInput=${(e) => put(e.target.value)} ...${faults} />`;
  return html`<div class="setting"><label for=${id}>${s.name}</label>${input}${below}</div>`;
}
