// Live charts: reads the server's numbers every second, and draws rates and percentiles of them.

import { call } from "./api.js";
import { Chart } from "./chart.js";
import { at, make, say } from "./dom.js";

const EVERY_MS = 1000;
const POINTS = 120;
const WINDOW = 10; // readings over which percentiles are taken

const total = (models, name) => models.reduce((sum, model) => sum + (model[name] ?? NaN), 0);

/** The readings of some models added up, with histograms as counts by bucket. */
export function added(models) {
  const sums = {};
  for (const name of ["steps_total", "tokens_total", "sessions", "queue_steps"]) {
    sums[name] = total(models, `carousel_${name}`);
  }
  for (const name of ["step_seconds", "tick_seconds"]) {
    const all = models.map((model) => model[`carousel_${name}`]).filter(Boolean);
    sums[name] = all.length && {
      bounds: all[0].bounds,
      counts: all[0].counts.map((_, bucket) => all.reduce((sum, one) => sum + one.counts[bucket], 0)),
    };
  }
  return sums;
}

/** A percentile in seconds of what a histogram has counted between two readings; NaN for nothing. */
export function percentile(older, newer, share) {
  if (!older || !newer) return NaN;
  const counts = newer.counts.map((count, bucket) => count - older.counts[bucket]);
  const wanted = counts.at(-1) * share;
  if (!(counts.at(-1) > 0)) return NaN;
  const bucket = counts.findIndex((count) => count >= wanted);
  const high = newer.bounds[bucket];
  if (high === undefined) return newer.bounds.at(-1);
  const low = bucket ? newer.bounds[bucket - 1] : 0;
  const below = bucket ? counts[bucket - 1] : 0;
  return low + ((wanted - below) / (counts[bucket] - below)) * (high - low);
}

/** Polls the numbers. `onReading` gets each answer, `onError` each failure. */
export class Live {
  constructor(onReading, onError) {
    Object.assign(this, { onReading, onError, readings: [], charts: new Map() });
    const parent = at("charts");
    parent.dataset.card = "card";
    const ends = ["2 min ago", "now"];
    const add = (key, title, unit, names = [""]) =>
      this.charts.set(key, new Chart(parent, { title, unit, names, points: POINTS, ends }));
    add("steps", "Steps", "steps/s");
    add("step", "Time of a step", "ms", ["p50", "p99"]);
    add("tick", "Time of a tick", "ms", ["p50", "p99"]);
    add("sessions", "Sessions", "resident");
    add("queue", "Queue", "steps");
    add("tokens", "Generated tokens", "tokens/s");
    at("live-model").addEventListener("change", () => this.show());
    document.addEventListener("visibilitychange", () => this.#next(0));
    this.#next(0);
  }

  /** Reads at once, as after a new token. */
  refresh() {
    this.readings = [];
    this.#next(0);
  }

  #next(delay) {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.#read(), delay);
  }

  async #read() {
    try {
      const reading = await call("metrics");
      if (this.readings.length && reading.at_s < this.readings.at(-1).at_s) this.readings = [];
      this.readings = [...this.readings, reading].slice(-(POINTS + WINDOW));
      this.#names(Object.keys(reading.models));
      this.show();
      this.onReading(reading);
    } catch (error) {
      this.onError(error);
    }
    this.#next(EVERY_MS);
  }

  #names(names) {
    const choice = at("live-model");
    if (choice.options.length === names.length + 1) return;
    choice.append(...names.map((name) => make("option", { value: name }, name)));
  }

  /** Draws what was read. */
  show() {
    const chosen = at("live-model").value;
    const last = this.readings.at(-1);
    if (!last) return;
    const own = last.scope === "tenant";
    say(at("live-scope"), own ? "Your own steps and sessions, on this server." : "The whole server, every second.");
    at("charts").classList.toggle("own", own);
    for (const key of ["step", "tick", "queue", "tokens"]) this.charts.get(key).figure.hidden = own;
    const sums = this.readings.map(({ models }) => added(chosen ? [models[chosen] ?? {}] : Object.values(models)));
    const rates = (name) =>
      sums.slice(1).map((sum, index) => {
        const seconds = this.readings[index + 1].at_s - this.readings[index].at_s;
        return Math.max(0, (sum[name] - sums[index][name]) / seconds);
      });
    const times = (name, share) =>
      sums.slice(1).map((sum, index) => {
        const older = sums[Math.max(0, index + 1 - WINDOW)];
        return 1000 * percentile(older[name], sum[name], share);
      });
    const levels = (name) => sums.map((sum) => sum[name]);
    const lines = {
      steps: [rates("steps_total")],
      step: [times("step_seconds", 0.5), times("step_seconds", 0.99)],
      tick: [times("tick_seconds", 0.5), times("tick_seconds", 0.99)],
      sessions: [levels("sessions")],
      queue: [levels("queue_steps")],
      tokens: [rates("tokens_total")],
    };
    for (const [key, drawn] of Object.entries(lines)) {
      this.charts.get(key).show(drawn.map((line) => line.slice(-POINTS)));
    }
  }
}
