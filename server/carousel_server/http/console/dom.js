// Elements of the page, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** The element with an id. */
export const at = (id) => document.getElementById(id);

/** An element with properties and children. Attributes are those whose names have a dash, and `role`. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** An element of SVG with attributes. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text only if it has changed, so that screen readers are not told of nothing. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows an error in an alert, or hides it with null. */
export function showProblem(element, error) {
  element.hidden = !error;
  if (error) say(element, error.fix ? `${error.message}. ${error.fix}` : error.message);
}

/** A number with three significant digits and at most one prefix: 1.23 k, 45.6 M. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${digits(value / 1e9)} G`;
  if (size >= 1e6) return `${digits(value / 1e6)} M`;
  if (size >= 1e4) return `${digits(value / 1e3)} k`;
  return Number.isInteger(value) ? String(value) : digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3)));
}

/** Bytes with a binary prefix. */
export function bytes(count) {
  if (count < 1024) return `${count} B`;
  return count < 1024 ** 2 ? `${digits(count / 1024)} KiB` : `${digits(count / 1024 ** 2)} MiB`;
}
