// The playground: a session of its own, stepped with rows, its outputs and its state over the steps.

import { call, events } from "./api.js";
import { Chart } from "./chart.js";
import { at, bytes, make, say, showProblem } from "./dom.js";
import { Heat } from "./heat.js";
import { GENERATE, inputsOf, ROW, rowOf, STREAM, TEXT, tokensOf, valuesOf } from "./signals.js";

const POINTS = 96;
const LINES = 4; // wider rows are drawn as heat maps
const MOST_STATE = 256 * 1024;
const MOST_HEATS = 6;
const IDLE_TTL_S = 600;
const MOST_TOKENS = 1000;

/** Rows over the steps: lines if they are few, else a heat map. */
class Pane {
  constructor(parent, title, names, unit) {
    parent.replaceChildren();
    const ends = ["", "now"];
    this.lines = names.map(() => []);
    this.wide = names.length > LINES;
    this.view = this.wide
      ? new Heat(parent, title, unit)
      : new Chart(parent, { title, names, points: POINTS, fromZero: false, ends });
  }

  add(seq, values) {
    if (this.wide) {
      this.view.add(seq, values);
      return;
    }
    values.forEach((value, index) => {
      this.lines[index] = [...this.lines[index], value].slice(-POINTS);
    });
    this.view.show(this.lines);
    say(this.view.first, `step ${Math.max(1, seq - POINTS + 1)}`);
  }
}

const width = (field) => field.shape.reduce((product, part) => product * part, 1);

function namesOf(fields) {
  if (fields.length === 1 && width(fields[0]) === 1) return [""];
  return fields.flatMap((field) =>
    Array.from({ length: width(field) }, (_, i) => (width(field) === 1 ? field.name : `${field.name}${i}`)));
}

/** The playground. */
export class Playground {
  constructor() {
    Object.assign(this, { models: [], session: "", seq: 0, running: false, busy: false, heats: new Map() });
    at("play-model").addEventListener("change", () => this.#choose());
    at("play-signal").addEventListener("change", () => {
      this.#fields();
      this.#restart();
    });
    at("play").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.#pause();
      else this.#run();
    });
    at("play-once").addEventListener("click", () => this.#guarded(() => this.#step()));
    at("play-new").addEventListener("click", () => this.#restart());
    addEventListener("pagehide", () => this.#leave());
  }

  /** Offers the models that can be stepped. */
  offer(models) {
    const chosen = at("play-model").value;
    this.models = models.filter((model) => model.causal);
    at("play-model").replaceChildren(...this.models.map(({ name }) => make("option", { value: name }, name)));
    for (const id of ["play-run", "play-once", "play-new"]) at(id).disabled = !this.models.length;
    if (!this.models.length) return;
    if (this.models.some(({ name }) => name === chosen)) at("play-model").value = chosen;
    else this.models.find(({ vocabulary }) => !vocabulary) && (at("play-model").value = this.models.find(({ vocabulary }) => !vocabulary).name);
    this.#choose();
  }

  get #model() {
    return this.models.find(({ name }) => name === at("play-model").value);
  }

  #choose() {
    const inputs = inputsOf(this.#model);
    at("play-signal").replaceChildren(...inputs.map(([value, name]) => make("option", { value }, name)));
    this.#fields();
    this.#restart();
  }

  #fields() {
    const model = this.#model;
    const signal = at("play-signal").value;
    const typed = [ROW, TEXT, GENERATE, STREAM].includes(signal);
    const generates = [GENERATE, STREAM].includes(signal);
    const streams = signal === STREAM;
    at("play-rate-label").hidden = at("play-once").hidden = at("play-panes").hidden = at("play-state").hidden = streams;
    at("play-period-label").hidden = typed || Boolean(model.signal) || signal === "noise";
    at("play-size-label").hidden = typed && !generates;
    say(at("play-size-name"), generates ? "Temperature" : "Amplitude");
    at("play-size").value = generates ? 0.7 : 1;
    at("play-text").hidden = !generates;
    at("play-row-label").hidden = !typed;
    const wanted = width(model.input);
    const bytes256 = model.vocabulary === 256;
    say(at("play-row-name"), signal === ROW ? `Row, ${wanted} numbers` : bytes256 ? "Text, one byte a step" : `Token ids below ${model.vocabulary}, one a step`);
    if (signal === ROW) at("play-row").value = Array.from({ length: wanted }, () => 0).join(" ");
    if (signal === TEXT) at("play-row").value = bytes256 ? "The quick brown fox jumps over the lazy dog. " : "1 2 3";
    if (generates) at("play-row").value = bytes256 ? "def main():" : "1 2 3";
  }

  #restart() {
    this.#pause();
    this.#clear();
  }

  /** Leaves the session and empties what shows it. */
  #clear() {
    this.#leave();
    this.seq = 0;
    this.last = null;
    this.tokens = [];
    for (const part of at("play-text").children) say(part, "");
    const model = this.#model;
    showProblem(at("play-problem"), null);
    say(at("play-session"), "");
    this.input = new Pane(at("play-in"), "Input", namesOf([model.input]), "number");
    this.output = new Pane(at("play-out"), "Outputs", namesOf(model.outputs), "output");
    this.heats.clear();
    at("heats").replaceChildren();
    const large = model.state_bytes > MOST_STATE;
    say(at("state-hint"), large
      ? `The state has ${bytes(model.state_bytes)}, too much to read at each step.`
      : "One column is one step, one row is one unit. Run steps to see it. Arrow keys read a single value.");
  }

  #run() {
    this.running = true;
    const streams = at("play-signal").value === STREAM;
    say(at("play-run"), streams ? "Stop" : "Pause");
    this.#guarded(() => (streams ? this.#generate() : this.#loop()));
  }

  #pause() {
    this.running = false;
    this.stop?.abort();
    say(at("play-run"), "Run");
  }

  async #loop() {
    while (this.running) {
      const began = performance.now();
      await this.#step();
      const every = 1000 / Number(at("play-rate").value);
      await new Promise((done) => setTimeout(done, Math.max(0, every - (performance.now() - began))));
    }
  }

  /** Generates on the server, in a new session. Its state cannot be read meanwhile. */
  async #generate() {
    const model = this.#model;
    this.#clear();
    const session = await this.#opened(model);
    const text = at("play-row").value;
    const prompt = model.tokenizer ? { prompt: text } : { tokens: tokensOf(model, text) };
    const temperature = Math.max(0, Number(at("play-size").value) || 0);
    const body = { ...prompt, temperature, max_tokens: MOST_TOKENS, stream: true };
    const [fed, written] = at("play-text").children;
    say(fed, text);
    this.stop = new AbortController();
    try {
      for await (const { tokens } of events("generate", { path: { session }, body, signal: this.stop.signal })) {
        this.#check(session);
        written.append(tokens.map((token) => (model.tokenizer ? token.text : `${token.id} `)).join(""));
        at("play-text").scrollTop = at("play-text").scrollHeight;
        const seq = tokens.at(-1)?.seq;
        if (seq) say(at("play-session"), `Session ${session.slice(0, 8)}…, ${seq} steps`);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  /** Runs work unless other work runs, and shows how it fails. */
  async #guarded(work) {
    if (this.busy) return;
    this.busy = true;
    try {
      await work();
      showProblem(at("play-problem"), null);
    } catch (error) {
      if (error !== GONE) showProblem(at("play-problem"), error);
      if (error.status === 404) this.session = ""; // closed or expired: the next step opens one
    } finally {
      this.busy = false;
      if (this.running) this.#pause();
    }
  }

  async #step() {
    const model = this.#model;
    const values = valuesOf(model, this.seq, {
      signal: at("play-signal").value,
      period: Math.max(2, Number(at("play-period").value) || 2),
      amplitude: Number(at("play-size").value) || 0,
      row: at("play-row").value,
    }, this.last);
    const session = await this.#opened(model);
    const seq = this.seq + 1;
    const body = { first_seq: seq, ack: seq - 1, inputs: [rowOf(model, values)] };
    const { outputs } = await call("steps", { path: { session }, body });
    this.#check(session);
    this.seq = seq;
    say(at("play-session"), `Session ${session.slice(0, 8)}…, ${seq} ${seq === 1 ? "step" : "steps"}`);
    this.input.add(seq, values);
    this.last = model.outputs.flatMap(({ name }) => [outputs[name][0]].flat(Infinity));
    this.output.add(seq, this.last);
    if (!at("play-text").hidden) this.#text(model, values[0]);
    if (model.state_bytes <= MOST_STATE) await this.#state(session, seq);
  }

  /** Shows the tokens that were fed: those of the prompt, then those that the model has written. */
  #text(model, token) {
    const bytes256 = model.vocabulary === 256;
    const fed = tokensOf(model, at("play-row").value).length;
    this.tokens.push(token);
    const shown = (ids) => (bytes256 ? new TextDecoder().decode(Uint8Array.from(ids)) : `${ids.join(" ")} `);
    const [prompt, written] = at("play-text").children;
    say(prompt, shown(this.tokens.slice(0, fed)));
    say(written, this.tokens.length > fed ? shown(this.tokens.slice(fed)) : "");
    at("play-text").scrollTop = at("play-text").scrollHeight;
  }

  async #opened(model) {
    if (this.session) return this.session;
    this.seq = 0;
    this.last = null;
    this.tokens = [];
    const body = { durability: "none", idle_ttl_s: IDLE_TTL_S };
    const { id } = await call("open", { path: { model: model.name }, body });
    if (this.#model !== model) {
      this.#close(id);
      throw GONE;
    }
    this.session = id;
    return id;
  }

  async #state(session, seq) {
    const { state } = await call("state", { path: { session } });
    this.#check(session);
    for (const { name, data } of state.slice(0, MOST_HEATS)) {
      if (!this.heats.has(name)) this.heats.set(name, new Heat(at("heats"), name.replace(/^(\d+)\.(.+)$/, "$2, layer $1")));
      this.heats.get(name).add(seq, [data].flat(Infinity));
    }
  }

  /** Throws if the session was left while an answer was in flight. */
  #check(session) {
    if (session !== this.session) throw GONE;
  }

  #leave() {
    if (this.session) this.#close(this.session);
    this.session = "";
  }

  #close(session) {
    call("close", { path: { session }, keepalive: true }).catch(() => {}); // it expires by itself
  }
}

const GONE = new Error("the session was left");
