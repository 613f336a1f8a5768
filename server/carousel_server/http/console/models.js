// The models that are served, and their health.

import { call } from "./api.js";
import { at, bytes, make, say, short } from "./dom.js";
import { Table } from "./table.js";

const field = ({ dtype, shape }) => (shape.length ? `${dtype} × ${shape.join(" × ")}` : dtype);

function kind(model) {
  const layers = model.layers > 1 ? `${model.layers} layers` : "1 layer";
  const size = model.hidden ? ` of ${model.hidden}` : "";
  const traits = [model.generative && "generates", !model.causal && "whole sequences only"].filter(Boolean);
  const cell = model.cell.toUpperCase().replaceAll("_", " ");
  const text = `${cell}, ${model.layers ? layers : "custom"}${size}`;
  return make("div", { className: "kind" }, text, make("span", { className: "hint" }, traits.join(", ")));
}

function health({ healthy }) {
  const dot = make("span", { className: `dot ${healthy ? "good" : "bad"}` });
  return make("span", { className: "state" }, dot, healthy ? "Healthy" : "Unhealthy");
}

const COLUMNS = [
  { name: "Model", lead: true, cell: (model) => [make("strong", {}, model.name), make("span", { className: "hint" }, model.description)] },
  { name: "Kind", cell: kind },
  { name: "Input → outputs", cell: (model) => make("code", {}, `${field(model.input)} → ${model.outputs.map(field).join(", ")}`) },
  { name: "Parameters", number: true, cell: (model) => short(model.parameters) },
  { name: "State of a session", number: true, cell: (model) => bytes(model.state_bytes) },
  { name: "Fingerprint", cell: (model) => make("code", { title: model.fingerprint }, model.fingerprint.slice(0, 12)) },
  { name: "Health", cell: health },
];

/** The table of models. */
export class Models {
  constructor() {
    this.all = [];
    this.unhealthy = new Set();
    this.table = new Table(at("models-table"), COLUMNS, "No models.");
  }

  /** Reads all models. */
  async load() {
    const all = [];
    let page_token = "";
    do {
      const page = await call("models", { query: { page_token } });
      all.push(...page.models);
      page_token = page.next_page_token;
    } while (page_token);
    this.all = all;
    say(at("models-hint"), all.length === 1 ? "1 model" : `${all.length} models`);
    this.#show();
    return all;
  }

  /** Shows the health of a reading. */
  heard(reading) {
    const names = Object.keys(reading.models).filter((name) => !reading.models[name].healthy);
    if (names.join() === [...this.unhealthy].join()) return;
    this.unhealthy = new Set(names);
    this.#show();
  }

  #show() {
    this.table.show(this.all.map((model) => [model.name, { ...model, healthy: !this.unhealthy.has(model.name) }]));
  }
}
