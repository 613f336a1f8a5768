// A model's rows: what callers pass in, as wire bytes; what comes back, as arrays.

import { serverError } from "./errors.js";

/** Types of elements that rows can have. */
export type DType = "float32" | "int32" | "int16";

/** Name, type and shape of one field of a row. */
export interface Field {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A model, as the HTTP door describes it. */
export interface Model {
  readonly name: string;
  readonly description: string;
  readonly cell: string;
  readonly input: Field;
  readonly outputs: readonly Field[];
  readonly causal: boolean;
  readonly generative: boolean;
  readonly tokenizer: string;
  readonly vocabulary: number;
  readonly window_steps: number;
  readonly max_sequence_steps: number;
  readonly [member: string]: unknown;
}

/** One row, or rows one after the other. Plain numbers become the model's type. */
export type Numbers = Float32Array | Int32Array | Int16Array | readonly number[];

const TYPES = { float32: Float32Array, int32: Int32Array, int16: Int16Array } as const;

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

const bytesOf = (field: Field): number => sizeOf(field.shape) * TYPES[field.dtype].BYTES_PER_ELEMENT;

/** Encodes the inputs of one model, and splits its outputs. */
export class ModelRows {
  /** Elements and bytes of an input row, and bytes of an output row. */
  readonly inputSize: number;
  readonly inputBytes: number;
  readonly outputBytes: number;

  constructor(readonly model: Model) {
    this.inputSize = sizeOf(model.input.shape);
    this.inputBytes = bytesOf(model.input);
    this.outputBytes = model.outputs.reduce((sum, field) => sum + bytesOf(field), 0);
  }

  /** Rows one after the other, as bytes. Throws INPUT_DTYPE or INPUT_SHAPE. */
  encode(numbers: Numbers): Uint8Array {
    const { name, input } = this.model;
    const type = TYPES[input.dtype];
    if (ArrayBuffer.isView(numbers) && !(numbers instanceof type)) {
      throw serverError("INPUT_DTYPE", `model ${name} takes ${input.dtype}, not ${numbers.constructor.name}`);
    }
    if (numbers.length === 0 || numbers.length % this.inputSize !== 0) {
      const text = `model ${name} takes rows of ${this.inputSize} numbers, not ${numbers.length}`;
      throw serverError("INPUT_SHAPE", text);
    }
    // A copy, because the caller may change its array while the steps wait.
    return littleEndian(new Uint8Array(type.from(numbers).buffer), type.BYTES_PER_ELEMENT);
  }

  /** One step's row. Throws INPUT_DTYPE or INPUT_SHAPE. */
  encodeRow(numbers: Numbers): Uint8Array {
    if (numbers.length !== this.inputSize) {
      const text = `a row of model ${this.model.name} has ${this.inputSize} numbers, not ${numbers.length}`;
      throw serverError("INPUT_SHAPE", text);
    }
    return this.encode(numbers);
  }

  /** Output rows, each over bytes of its own. */
  decode(data: Uint8Array): Float32Array[] {
    const bytes = littleEndian(data.slice(), Float32Array.BYTES_PER_ELEMENT);
    const size = this.outputBytes / Float32Array.BYTES_PER_ELEMENT;
    return Array.from(
      { length: bytes.length / this.outputBytes },
      (_, row) => new Float32Array(bytes.buffer, row * this.outputBytes, size),
    );
  }

  /** The fields of an output row by name, each as what it is. They share the row's memory. */
  fields(row: Float32Array): Record<string, Float32Array | Int32Array | Int16Array> {
    const found: Record<string, Float32Array | Int32Array | Int16Array> = {};
    let offset = row.byteOffset;
    for (const field of this.model.outputs) {
      found[field.name] = new TYPES[field.dtype](row.buffer as ArrayBuffer, offset, sizeOf(field.shape));
      offset += bytesOf(field);
    }
    return found;
  }
}

const IS_LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** The wire is little-endian, also where the machine is not. */
function littleEndian(bytes: Uint8Array<ArrayBuffer>, size: number): Uint8Array<ArrayBuffer> {
  if (!IS_LITTLE) {
    for (let at = 0; at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
  }
  return bytes;
}
