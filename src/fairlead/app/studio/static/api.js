// Requests to the studio's own server, and its event streams.

export class Problem extends Error {
  constructor(status, code, message, more = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = more.field; // of a form
    this.formula = more.formula; // what somebody has to say yes to
  }
}

let token = null;

async function answered(request) {
  let answer;
  try {
    answer = await request();
  } catch {
    throw new Problem(0, "offline", "The studio does not answer. Runs go on without it: start 'fairlead studio' again.");
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Problem(answer.status, data.error?.code, data.error?.message ?? `Status ${answer.status}.`, data.error);
  return data;
}

export const get = (path) => answered(() => fetch(path, { credentials: "same-origin" }));

export async function post(path, body = {}) {
  token ??= (await get("/api/session")).token;
  const headers = { "content-type": "application/json", "x-fairlead-token": token };
  return answered(() => fetch(path, { method: "POST", credentials: "same-origin", headers, body: JSON.stringify(body) }));
}

// Reads server-sent events with fetch, because EventSource gives up for good after one refusal.
// `on` has a function for each kind of event, and `lost(problem)` and `found()` for the connection.
// Returns a function that closes the stream.
export function stream(path, after, on) {
  const closing = new AbortController();
  let position = after;
  (async () => {
    let pause = 300;
    while (!closing.signal.aborted) {
      try {
        const joint = path.includes("?") ? "&" : "?";
        const answer = await fetch(`${path}${joint}after=${encodeURIComponent(position)}`, {
          credentials: "same-origin",
          signal: closing.signal,
        });
        if (!answer.ok) {
          const data = await answer.json().catch(() => ({}));
          on.lost?.(new Problem(answer.status, data.error?.code, data.error?.message ?? ""));
          if (answer.status === 404) return;
        } else {
          on.found?.();
          pause = 300;
          for await (const event of events(answer.body)) {
            on[event.kind]?.(JSON.parse(event.data));
            if (event.id !== null) position = event.id;
            if (event.kind === "gone") return;
          }
        }
      } catch (error) {
        if (closing.signal.aborted) return;
        on.lost?.(new Problem(0, "offline", "The studio does not answer. Runs go on without it."));
      }
      await new Promise((done) => setTimeout(done, pause));
      pause = Math.min(5000, pause * 2);
    }
  })();
  return () => closing.abort();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { id: null, kind: "message", data: "" };
      for (const line of block.split("\n")) {
        if (line.startsWith("id: ")) event.id = line.slice(4);
        else if (line.startsWith("event: ")) event.kind = line.slice(7);
        else if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      if (event.data) yield event;
    }
  }
}

export const picture = (run, digest, thumb = false) => `/api/runs/${run}/images/${digest}${thumb ? "?thumb=1" : ""}`;
