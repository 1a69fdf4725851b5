// A run as the page knows it: rows by their index, so that an event that is sent again changes nothing.
// Best and curve follow the rules of Store.best and View.trace; a test compares them.

export class Record {
  constructor(data) {
    this.take(data);
  }

  take(data) {
    this.data = data;
    this.rows = new Map();
    this.marks = new Map();
    this.progress = null;
    this.add(data.candidates ?? []);
    for (const [index, kinds] of Object.entries(data.marks ?? {})) this.marks.set(Number(index), { ...kinds });
  }

  add(candidates) {
    for (const c of candidates) {
      const reward = c.reward === null ? NaN : Number(c.reward);
      this.rows.set(c.index, { ...c, reward });
    }
    this._sorted = this._ranked = this._best = undefined;
    this.version = (this.version ?? 0) + 1;
  }

  mark({ candidate, kind, value }) {
    this.version += 1;
    const own = { ...(this.marks.get(candidate) ?? {}) };
    delete own[kind];
    if (value) own[kind] = value;
    this.marks.set(candidate, own);
  }

  has(index, kind) {
    return Boolean(this.marks.get(index)?.[kind]);
  }

  get candidates() {
    this._sorted ??= [...this.rows.values()].filter((c) => c.index >= 0).sort((a, b) => a.index - b.index);
    return this._sorted;
  }

  get baseline() {
    return this.rows.get(this.data.baseline ?? 0) ?? null;
  }

  get best() {
    if (this._best === undefined) this._best = this._highest();
    return this._best;
  }

  // What a final judge chose, else the highest reward of the highest rung.
  _highest() {
    const chosen = this.rows.get(this.data.winner ?? NaN);
    return chosen ?? this.ranked.find((c) => !Number.isNaN(c.reward)) ?? null;
  }

  // How often a candidate's prompt was rendered before at less effort: its place in the chain of drafts.
  rung(c) {
    return c.refines === null || !this.rows.has(c.refines) ? 0 : 1 + this.rung(this.rows.get(c.refines));
  }

  // The candidates of the highest rung so far: of a run with drafts, those that were finished.
  get pictures() {
    const top = this.candidates.reduce((most, c) => Math.max(most, this.rung(c)), 0);
    return this.candidates.filter((c) => this.rung(c) === top);
  }

  get gain() {
    return this.best && this.baseline ? this.best.reward - this.baseline.reward : NaN;
  }

  get ranked() {
    this._ranked ??= this._rank();
    return this._ranked;
  }

  _rank() {
    const worth = (c) => (Number.isNaN(c.reward) ? -Infinity : c.reward);
    return [...this.candidates].sort(
      (a, b) =>
        this.rung(b) - this.rung(a) ||
        Number.isNaN(a.reward) - Number.isNaN(b.reward) ||
        (worth(a) === worth(b) ? 0 : worth(b) - worth(a)) ||
        a.index - b.index,
    );
  }

  get terms() {
    return [...new Set([...this.rows.values()].flatMap((c) => Object.keys(c.terms)))];
  }

  // What was spent before the first candidate: preparation, and a baseline of its own.
  once(axis) {
    return this.candidates.reduce((left, c) => left - c.cost[axis], (this.data.spent?.[axis] ?? 0) - (this.data.judging?.[axis] ?? 0));
  }

  // [{x, reward, best, index}] in the order of rendering; seconds are those at the end of a batch.
  trace(axis) {
    const order = [...this.candidates].sort((a, b) => a.task - b.task || a.index - b.index);
    const ends = new Map();
    let total = this.once(axis);
    for (const c of order) ends.set(c.task, (total += c.cost[axis]));
    let spent = this.once(axis);
    let best = NaN;
    let rung = 0;
    return order.map((c) => {
      spent += c.cost[axis];
      const own = this.rung(c);
      if (own > rung) {
        best = NaN;
        rung = own;
      }
      const counts = !Number.isNaN(c.reward) && own === rung;
      if (counts && !(c.reward <= best)) best = c.reward;
      return { x: axis === "seconds" ? ends.get(c.task) : spent, reward: c.reward, best, index: c.index, rung: own };
    });
  }
}

export function staircase(trace) {
  const steps = new Map();
  let highest = -Infinity;
  for (const point of trace) {
    if (Number.isFinite(point.best) && point.best > highest) {
      highest = point.best;
      steps.set(point.x, point.best);
    }
  }
  return [...steps];
}
