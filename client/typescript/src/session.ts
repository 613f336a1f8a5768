// One session, as the application has it.

import type { AttachCore } from "./core/attach.js";
import type { Effects } from "./core/link.js";
import type { BindTicket, StepTicket, Ticket } from "./core/tickets.js";
import { serverError } from "./errors.js";
import type { CallOptions } from "./options.js";
import type { ModelRows, Numbers } from "./rows.js";
import type { Streams } from "./streams.js";
import { ended } from "./waiting.js";

/** Options of steps. */
export interface StepOptions extends CallOptions {
  /** Whether each step starts from the initial state; by default none does. */
  readonly resets?: readonly boolean[];
}

/** What carries a session: the client's core and streams. */
export interface Carrier {
  readonly core: AttachCore;
  readonly streams: Streams;
}

/**
 * A session on a model. Calls may overlap: steps run in the order of the calls.
 * A lost connection is mended unseen, and each step runs once.
 */
export class Session {
  private readonly lane: BindTicket["lane"];

  constructor(
    private readonly carrier: Carrier,
    private readonly rows: ModelRows,
    bound: BindTicket,
  ) {
    this.lane = bound.lane;
  }

  get id(): string {
    return this.lane.sessionId;
  }

  get model(): string {
    return this.rows.model.name;
  }

  /** Last step whose output has come. */
  get received(): bigint {
    return this.lane.cursors.received;
  }

  /** Most steps that are in flight. Further ones wait here. */
  get window(): number {
    return Number(this.lane.cursors.window);
  }

  /** Runs one step. The output is a row, float32[output row]. */
  async step(row: Numbers, options: CallOptions & { readonly reset?: boolean } = {}): Promise<Float32Array> {
    const [output] = await this.run(this.rows.encodeRow(row), {
      ...options,
      resets: [options.reset ?? false],
    });
    return output as Float32Array;
  }

  /** Runs steps: rows one by one, or one after the other in one array. The outputs are rows. */
  async steps(rows: Numbers | readonly Numbers[], options: StepOptions = {}): Promise<Float32Array[]> {
    return this.run(this.encoded(rows), options);
  }

  /**
   * Runs a step for each row as it comes, and gives each output as it comes.
   * It takes no more rows than fit the window before their outputs are read.
   */
  async *stream(
    rows: AsyncIterable<Numbers> | Iterable<Numbers>,
    options: CallOptions = {},
  ): AsyncGenerator<Float32Array, void, void> {
    const source = iteratorOf(rows);
    const inFlight: Promise<Float32Array>[] = [];
    let next: Promise<IteratorResult<Numbers>> | undefined = settled(source.next());
    let fault: { readonly error: unknown } | undefined;
    try {
      while (next !== undefined || inFlight.length > 0) {
        const taken: typeof next = inFlight.length < this.window ? next : undefined;
        if ((await firstOf(taken, inFlight[0])) === "output") {
          yield await (inFlight.shift() as Promise<Float32Array>);
          continue;
        }
        next = undefined;
        try {
          const { done, value } = await (taken as Promise<IteratorResult<Numbers>>);
          if (done) continue;
          inFlight.push(settled(this.step(value, options)));
          next = settled(source.next());
        } catch (error) {
          fault = { error }; // thrown once the outputs of the rows before have come
        }
      }
    } finally {
      if (next !== undefined) void source.return?.()?.catch(() => {});
    }
    if (fault !== undefined) throw fault.error;
  }

  /** Outputs that were there before this client took the session up, and that no client has confirmed. */
  async readAgain(options: CallOptions = {}): Promise<Float32Array[]> {
    const [ticket, effects] = this.carrier.core.readAgain(this.lane, this.rows.outputBytes);
    if (ticket === undefined) return [];
    return this.outputs(await this.wait(ticket, effects, options.signal));
  }

  /** The fields of an output row by name, each as what it is. */
  fields(row: Float32Array): ReturnType<ModelRows["fields"]> {
    return this.rows.fields(row);
  }

  /** Ends the session. */
  close(options: CallOptions = {}): Promise<void> {
    return this.giveBack(true, options);
  }

  /** Leaves the session open, for `client.attach(id)` from here or elsewhere. Waits for the store. */
  detach(options: CallOptions = {}): Promise<void> {
    return this.giveBack(false, options);
  }

  private async giveBack(close: boolean, { signal }: CallOptions): Promise<void> {
    const [ticket, effects] = this.carrier.core.unbind(this.lane, close);
    if (ticket !== undefined) await this.wait(ticket, effects, signal);
  }

  private async run(data: Uint8Array, { signal, resets }: StepOptions): Promise<Float32Array[]> {
    signal?.throwIfAborted();
    const { inputBytes, outputBytes } = this.rows;
    if (resets !== undefined && resets.length * inputBytes !== data.length) {
      throw serverError(
        "INPUT_SHAPE",
        `there are ${resets.length} resets for ${data.length / inputBytes} steps`,
      );
    }
    const [ticket, effects] = this.carrier.core.submit(this.lane, {
      data,
      rowBytes: inputBytes,
      outputRowBytes: outputBytes,
      resets: resets?.includes(true) ? Uint8Array.from(resets, Number) : undefined,
    });
    return this.outputs(await this.wait(ticket, effects, signal));
  }

  private outputs(ticket: StepTicket): Float32Array[] {
    return this.rows.decode(ticket.outputs);
  }

  private encoded(rows: Numbers | readonly Numbers[]): Uint8Array {
    if (ArrayBuffer.isView(rows) || typeof rows[0] === "number") return this.rows.encode(rows as Numbers);
    const parts = (rows as readonly Numbers[]).map((row) => this.rows.encodeRow(row));
    const data = new Uint8Array(parts.length * this.rows.inputBytes);
    for (const [index, part] of parts.entries()) data.set(part, index * this.rows.inputBytes);
    if (parts.length === 0) throw serverError("INPUT_SHAPE", "there are no rows");
    return data;
  }

  private wait<T extends Ticket>(ticket: T, effects: Effects, signal?: AbortSignal): Promise<T> {
    const waited = ended(ticket, signal);
    this.carrier.streams.apply(effects);
    return waited;
  }
}

function iteratorOf<T>(rows: AsyncIterable<T> | Iterable<T>): AsyncIterator<T> {
  if (Symbol.asyncIterator in rows) return rows[Symbol.asyncIterator]();
  const inner = rows[Symbol.iterator]();
  return {
    next: async () => inner.next(),
    return: async () => inner.return?.() ?? { done: true, value: undefined },
  };
}

/** A promise whose failure is thrown where it is awaited, if it ever is. */
function settled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Which of the two is there first. A failure counts as being there. */
function firstOf(input: Promise<unknown> | undefined, output: Promise<unknown> | undefined): Promise<string> {
  const waits: Promise<string>[] = [];
  const named = (promise: Promise<unknown>, name: string) =>
    promise.then(
      () => name,
      () => name,
    );
  if (output !== undefined) waits.push(named(output, "output"));
  if (input !== undefined) waits.push(named(input, "input"));
  return Promise.race(waits);
}
