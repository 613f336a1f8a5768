// A heat map on a canvas: one column a step, one row a unit. Colours are relative to the largest usual size so far.

import { make, say, short } from "./dom.js";

const STEPS = 96;
const UNITS = 256;

function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

/** The size that 95 % of the values have at most, so that a few large ones do not pale the others. */
function typical(values) {
  const sizes = values.map(Math.abs).sort((a, b) => a - b);
  return sizes[Math.max(0, Math.ceil(0.95 * sizes.length) - 1)] ?? 0;
}

/** A heat map. `name` is what it shows. */
export class Heat {
  constructor(parent, name, unit = "unit") {
    Object.assign(this, { name, unit, columns: [], most: 0, cursor: null });
    this.title = make("span", {}, name);
    this.count = make("span", {});
    this.canvas = make("canvas", { width: STEPS, height: 1, tabIndex: 0, role: "img", "aria-label": name });
    this.low = make("span", {});
    this.high = make("span", {});
    this.value = make("output", {});
    const scale = make("div", { className: "scale" }, this.low, make("span", { className: "ramp" }), this.high, this.value);
    this.figure = make("figure", {}, make("figcaption", {}, this.title, this.count), this.canvas, scale);
    parent.append(this.figure);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.#draw());
  }

  /** Adds the column of step `seq`, an array of numbers. */
  add(seq, values) {
    const shown = values.slice(0, UNITS);
    this.columns = [...this.columns, { seq, shown }].slice(-STEPS);
    this.most = Math.max(this.most, typical(shown));
    const units = `${values.length} ${this.unit}s`;
    say(this.count, values.length > UNITS ? `first ${UNITS} of ${units}` : units);
    say(this.low, `≤ ${short(-this.most)}`);
    say(this.high, `≥ ${short(this.most)}`);
    this.canvas.setAttribute("aria-label", `${this.name}, ${units}, steps ${this.columns[0].seq} to ${seq}`);
    if (this.cursor) this.#tell();
    this.#draw();
  }

  #draw() {
    const units = this.columns.at(-1)?.shown.length ?? 0;
    if (!units) return;
    const [cold, zero, warm] = ["--cold", "--zero", "--warm"].map(colour);
    if (this.canvas.height !== units) this.canvas.height = units;
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(STEPS, units);
    this.columns.forEach(({ shown }, index) => {
      const x = STEPS - this.columns.length + index;
      shown.forEach((value, y) => {
        const part = this.most ? Math.min(1, Math.abs(value) / this.most) : 0;
        const far = value < 0 ? cold : warm;
        const place = 4 * (y * STEPS + x);
        for (let c = 0; c < 3; c += 1) image.data[place + c] = zero[c] + (far[c] - zero[c]) * part;
        image.data[place + 3] = 255;
      });
    });
    context.putImageData(image, 0, 0);
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * STEPS);
    const y = Math.floor(((event.clientY - box.top) / box.height) * this.canvas.height);
    this.cursor = { back: STEPS - 1 - x, row: y };
    this.#tell();
  }

  #key(event) {
    const moves = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move || !this.columns.length) return;
    event.preventDefault();
    const { back, row } = this.cursor ?? { back: 0, row: 0 };
    const inside = (value, most) => Math.max(0, Math.min(most, value));
    this.cursor = {
      back: inside(back + move[0], this.columns.length - 1),
      row: inside(row + move[1], this.canvas.height - 1),
    };
    this.#tell();
  }

  #tell() {
    const column = this.columns[this.columns.length - 1 - this.cursor.back];
    const value = column?.shown[this.cursor.row];
    say(this.value, value === undefined ? "" : `step ${column.seq}, ${this.unit} ${this.cursor.row}: ${short(value)}`);
  }
}
