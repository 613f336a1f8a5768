// The calls of the HTTP door that this page makes, and the token that they carry.

const CALLS = {
  models: "GET /api/models",
  metrics: "GET /api/metrics",
  sessions: "GET /api/sessions",
  open: "POST /api/models/{model}/sessions",
  close: "DELETE /api/sessions/{session}",
  state: "GET /api/sessions/{session}/state",
  steps: "POST /api/sessions/{session}/steps",
  generate: "POST /api/sessions/{session}/generate",
};

const TOKEN = "carousel-token";

/** The token of this tab, "" for none. */
export const token = () => sessionStorage.getItem(TOKEN) ?? "";

/** Stores the token for this tab only. */
export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

/** An error of the server. `reason` is that of the error registry, `fix` says what to do. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `the server answered with status ${status}`);
    this.status = status;
    this.reason = body.reason ?? "";
    this.fix = body.fix ?? "";
  }
}

async function respond(name, { path = {}, query = {}, body, keepalive = false, signal } = {}) {
  const [verb, pattern] = CALLS[name].split(" ");
  const filled = pattern.replace(/\{(\w+)\}/g, (_, part) => encodeURIComponent(path[part]));
  const search = new URLSearchParams(query).toString();
  const headers = {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(search ? `${filled}?${search}` : filled, {
    method: verb,
    headers,
    keepalive,
    signal,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

/** Makes a call and returns its JSON. Throws Problem, or TypeError if the server is not reached. */
export async function call(name, options) {
  return (await respond(name, options)).json();
}

/** Makes a call and yields the JSON of its events as they come. An event of an error is thrown as Problem. */
export async function* events(name, options) {
  const response = await respond(name, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = JSON.parse(lines.find((line) => line.startsWith("data: ")).slice(6));
      if (lines.includes("event: error")) throw new Problem(data.status, data);
      yield data;
    }
  }
}
