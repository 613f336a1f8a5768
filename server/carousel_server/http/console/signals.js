// Rows to step a model with, made from a step's number.

const TONE_HZ = 440;

const sine = (n, period) => Math.sin((2 * Math.PI * n) / period);
const WAVES = {
  sine: { name: "Sine", wave: sine },
  square: { name: "Square", wave: (n, period) => (sine(n, period) >= 0 ? 1 : -1) },
  impulse: { name: "Impulse", wave: (n, period) => (n % period === 0 ? 1 : 0) },
  noise: { name: "Noise", wave: () => 2 * Math.random() - 1 },
};

export const ROW = "row";
export const TEXT = "text";
export const GENERATE = "generate";
export const STREAM = "stream";

const size = (field) => field.shape.reduce((product, part) => product * part, 1);

/** Names of the inputs that suit a model, by key. */
export function inputsOf(model) {
  const waves = Object.entries(WAVES).map(([key, { name }]) => [key, name]);
  const text = [TEXT, model.vocabulary === 256 ? "Text, again and again" : "Token ids, again and again"];
  if (model.generative) return [[GENERATE, "Prompt, step by step"], [STREAM, "Prompt, at full speed"], text];
  if (model.vocabulary) return [text];
  return [...waves, [ROW, "A row of numbers"]];
}

/** A row of the model's shape. */
function shaped(values, shape) {
  if (!shape.length) return values[0];
  if (shape.length === 1) return values;
  const [, ...inner] = shape;
  const width = inner.reduce((product, part) => product * part, 1);
  return Array.from({ length: shape[0] }, (_, i) => shaped(values.slice(i * width, (i + 1) * width), inner));
}

/** The numbers of step `n`, counted from 0, flat. Settings: `signal`, `period`, `amplitude` and `row`.
 * `last` has the outputs of the step before, null for the first one. */
export function valuesOf(model, n, { signal, period, amplitude, row }, last) {
  const width = size(model.input);
  if (model.vocabulary) {
    const ids = tokensOf(model, row);
    return [signal === GENERATE && n >= ids.length ? drawn(last, amplitude) : ids[n % ids.length]];
  }
  if (signal === ROW) {
    const given = row.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (given.length !== width || !given.every(Number.isFinite)) {
      throw new RangeError(`the row needs ${width} numbers, with spaces or commas between them`);
    }
    return given;
  }
  const { wave } = WAVES[signal];
  const whole = model.input.dtype.startsWith("int");
  const at = (j) => {
    // Samples of a signal follow each other in the row. Features stand side by side.
    if (model.signal) return wave(n * width + j, (model.signal.rate || 16000) / TONE_HZ);
    return wave(n + (j * period) / (width + 1), period);
  };
  return Array.from({ length: width }, (_, j) => {
    const value = amplitude * at(j);
    return whole ? Math.round(Math.max(-1, Math.min(1, value)) * 32767) : value;
  });
}

/** A token by its logits. The temperature 0 takes the most likely one. */
function drawn(logits, temperature) {
  const most = Math.max(...logits);
  if (!(temperature > 0)) return logits.indexOf(most);
  const weights = logits.map((logit) => Math.exp((logit - most) / temperature));
  let left = Math.random() * weights.reduce((sum, weight) => sum + weight, 0);
  const token = weights.findIndex((weight) => (left -= weight) < 0);
  return token < 0 ? logits.indexOf(most) : token;
}

/** Token ids of a text: its bytes, or the numbers in it. */
export function tokensOf(model, text) {
  const bytes = model.vocabulary === 256;
  const ids = bytes ? [...new TextEncoder().encode(text)] : text.split(/[\s,]+/).filter(Boolean).map(Number);
  if (!ids.length || !ids.every(Number.isInteger)) {
    throw new RangeError(bytes ? "the text is empty" : "the input needs token ids, with spaces between them");
  }
  return ids;
}

/** The row of a step, from its numbers. */
export const rowOf = (model, values) => shaped(values, model.input.shape);
