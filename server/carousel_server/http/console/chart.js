// A line chart in SVG: a few lines over a fixed number of points, with a grid and two labels.

import { draw, make, say, short } from "./dom.js";

const LEFT = 34;
const HEIGHT = 108;
const BASE = 90;
const TOP = 8;

/** Upper and lower bounds that are round numbers. */
function bounds(lines, fromZero) {
  const values = lines.flat().filter(Number.isFinite);
  const most = Math.max(...values, fromZero ? 0 : -Infinity);
  const least = fromZero ? 0 : Math.min(...values);
  if (!values.length) return [0, 1];
  if (most === least) return [least, least + (Math.abs(least) || 1)];
  const span = most - least;
  const unit = 10 ** Math.floor(Math.log10(span)) / 2;
  const low = Math.floor(least / unit) * unit;
  return [low, Math.max(Math.ceil(most / unit) * unit, low + unit)];
}

function path(line, low, high, most, width) {
  let text = "";
  let open = false;
  line.forEach((value, index) => {
    if (!Number.isFinite(value)) {
      open = false;
      return;
    }
    const x = LEFT + ((most - line.length + index) / (most - 1)) * (width - LEFT);
    const y = BASE - ((value - low) / (high - low)) * (BASE - TOP);
    text += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    open = true;
  });
  return text;
}

/** A chart with a title. `names` are those of the lines; `points` is how many a line has at most. */
export class Chart {
  constructor(parent, { title, unit = "", names = [""], points, fromZero = true, ends }) {
    Object.assign(this, { title, unit, names, points, fromZero });
    this.now = make("div", { className: names.length > 2 ? "now many" : "now" });
    this.labels = [0, 1, 2].map((step) => {
      const y = BASE - (step * (BASE - TOP)) / 2;
      return draw("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" });
    });
    this.paths = names.map((_, index) => draw("path", { class: `line-${index}` }));
    const grid = [0, 1, 2].map((step) => {
      const y = BASE - (step * (BASE - TOP)) / 2;
      return draw("line", { class: "grid", x1: LEFT, x2: "100%", y1: y, y2: y });
    });
    this.first = draw("text", { x: LEFT, y: HEIGHT - 2 }, ends[0]);
    const last = draw("text", { x: "100%", y: HEIGHT - 2, "text-anchor": "end" }, ends[1]);
    this.svg = draw(
      "svg",
      { class: "plot", role: "img", "aria-label": title },
      ...grid, ...this.labels, ...this.paths.toReversed(), this.first, last,
    );
    const caption = make("figcaption", {}, make("span", {}, title));
    this.figure = make("figure", { className: parent.dataset.card ?? "" }, caption, this.now, this.svg);
    parent.append(this.figure);
    this.show(names.map(() => []));
    new ResizeObserver(() => this.#draw()).observe(this.svg); // letters keep their size at any width
  }

  /** Draws the lines, arrays of numbers of which NaN are gaps. */
  show(lines) {
    this.lines = lines;
    this.#draw();
    const now = lines.map((line) => short(line.at(-1) ?? NaN));
    const parts = now.map((value, index) => {
      const name = this.names[index] ? `${this.names[index]}${this.unit ? ", " : ""}` : "";
      const small = make("small", {}, ` ${name}${this.unit}`);
      return make("span", { className: index ? "other" : "" }, value, small);
    });
    this.now.replaceChildren(...parts);
    const told = this.names.map((name, index) => `${name} ${now[index]} ${this.unit}`.trim());
    this.svg.setAttribute("aria-label", `${this.title}: now ${told.join("; ")}`);
  }

  #draw() {
    const { lines, points } = this;
    const [low, high] = bounds(lines, this.fromZero);
    const width = Math.max(this.svg.clientWidth, 2 * LEFT);
    this.labels.forEach((label, step) => say(label, short(low + (step * (high - low)) / 2)));
    this.paths.forEach((one, index) => one.setAttribute("d", path(lines[index], low, high, points, width)));
  }
}
