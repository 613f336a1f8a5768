// The client of one server: sessions over a WebSocket, all else over HTTP.

import { create } from "@bufbuild/protobuf";
import { AttachCore } from "./core/attach.js";
import type { BindTicket } from "./core/tickets.js";
import { CarouselError, ClientSideError } from "./errors.js";
import {
  Durability,
  type OpenSessionRequest,
  OpenSessionRequestSchema,
} from "./gen/carousel_protos/v1/carousel_pb.js";
import { type GenerateOptions, generate, type Token } from "./generate.js";
import { call, JSON_TYPE, RAW } from "./http.js";
import { type CallOptions, type ClientOptions, Target } from "./options.js";
import { type Model, ModelRows, type Numbers } from "./rows.js";
import { type Carrier, Session } from "./session.js";
import { nowS, Streams } from "./streams.js";
import { ended, pause } from "./waiting.js";

/** What survives the death of the server. */
export type DurabilityName = "default" | "none" | "async" | "sync" | "sync+fsync";

const DURABILITIES: Readonly<Record<DurabilityName, Durability>> = {
  default: Durability.UNSPECIFIED,
  none: Durability.NONE,
  async: Durability.ASYNC,
  sync: Durability.SYNC,
  "sync+fsync": Durability.SYNC_FSYNC,
};

/** Options of a new session. */
export interface SessionOptions extends CallOptions {
  /** The session's id; by default a random one. */
  readonly id?: string;
  readonly durability?: DurabilityName;
  /** Name of the initial state. */
  readonly initial?: string;
  /** Seed of the session's random numbers. */
  readonly seed?: bigint;
}

/** Tries of a call that no server has answered: the URL may be wrong, and the caller should know soon. */
const MOST_LOOKS = 5;

/** One server, for any number of sessions. */
export class Client {
  private readonly target: Target;
  private readonly carrier: Carrier;
  private readonly known = new Map<string, ModelRows>();
  private readonly ending = new AbortController();

  /** `url` is such as ws://localhost:8080, at the server's setting http_port. */
  constructor(url: string, options: ClientOptions = {}) {
    this.target = new Target(url, options);
    const core = new AttachCore([this.target.attach], { policy: this.target.policy });
    this.carrier = { core, streams: new Streams(core, this.target) };
  }

  /** Opens a session on a model. */
  async session(model: string, options: SessionOptions = {}): Promise<Session> {
    const rows = await this.rowsOf(model, options.signal);
    const opens = create(OpenSessionRequestSchema, {
      model,
      sessionId: options.id ?? crypto.randomUUID(),
      durability: DURABILITIES[options.durability ?? "default"],
      initial: options.initial ?? "",
    });
    if (options.seed !== undefined) opens.seed = options.seed;
    return new Session(this.carrier, rows, await this.bound(opens, options.signal));
  }

  /** Takes up a session that exists. The newest client of a session has it. */
  async attach(id: string, options: CallOptions = {}): Promise<Session> {
    const ticket = await this.bound(id, options.signal);
    const rows = await this.rowsOf(ticket.session?.model ?? "", options.signal);
    return new Session(this.carrier, rows, ticket);
  }

  /** Runs a whole sequence, without a session. Outputs are rows. */
  async infer(model: string, rows: Numbers, options: CallOptions = {}): Promise<Float32Array[]> {
    const codec = await this.rowsOf(model, options.signal);
    const response = await call(this.target, `/models/${encodeURIComponent(model)}/infer`, {
      method: "POST",
      headers: { "content-type": RAW, accept: RAW },
      body: codec.encode(rows) as Uint8Array<ArrayBuffer>,
      signal: options.signal,
    });
    return codec.decode(new Uint8Array(await response.arrayBuffer()));
  }

  /** Generates text, and gives each token as it comes. */
  generate(model: string, options: GenerateOptions): AsyncGenerator<Token, void, void> {
    return generate(this.target, model, options);
  }

  /** All models of the server, by name. */
  async models(options: CallOptions = {}): Promise<Model[]> {
    const found: Model[] = [];
    for (let token = ""; ; ) {
      const path = `/models?page_token=${encodeURIComponent(token)}`;
      const response = await call(this.target, path, {
        headers: { accept: JSON_TYPE },
        signal: options.signal,
      });
      const page = (await response.json()) as { models: Model[]; next_page_token: string };
      found.push(...page.models);
      token = page.next_page_token;
      if (token === "") return found;
    }
  }

  /** Ends the client, and all that waits. Sessions stay open on the server until they expire. */
  close(): void {
    const error = new ClientSideError("CLIENT_CLOSED", "the client was closed", { code: "CANCELLED" });
    this.ending.abort(error);
    const effects = this.carrier.core.close(error);
    this.carrier.streams.apply(effects);
    this.carrier.streams.close();
  }

  private async rowsOf(name: string, signal?: AbortSignal): Promise<ModelRows> {
    const known = this.known.get(name);
    if (known !== undefined) return known;
    return this.tried(signal, async () => {
      const response = await call(this.target, `/models/${encodeURIComponent(name)}`, { signal });
      const rows = new ModelRows((await response.json()) as Model);
      this.known.set(name, rows);
      return rows;
    });
  }

  private bound(target: string | OpenSessionRequest, signal?: AbortSignal): Promise<BindTicket> {
    this.target.check();
    return this.tried(signal, async () => {
      const [ticket, effects] = this.carrier.core.bind(target, nowS());
      const waited = ended(ticket, signal);
      this.carrier.streams.apply(effects);
      try {
        return await waited;
      } catch (error) {
        // Given up by the caller: the server is told, if it may have bound the session.
        if (signal?.aborted) this.carrier.streams.apply(this.carrier.core.unbind(ticket.lane, false)[1]);
        throw error;
      }
    });
  }

  /** Tries again what a server refuses for now, as long as a session would look for its server. */
  private async tried<T>(signal: AbortSignal | undefined, attempt: () => Promise<T>): Promise<T> {
    const { firstDelayS, reconnectS } = this.target.policy;
    const untilS = nowS() + reconnectS;
    const either = signal === undefined ? this.ending.signal : AbortSignal.any([signal, this.ending.signal]);
    for (let tries = 1; ; tries += 1) {
      either.throwIfAborted();
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof CarouselError)) throw error;
        const silent = error.reason === "SERVER_UNREACHABLE" || error.reason === "CONNECTION_LOST";
        if (!(error.retryable || (silent && tries < MOST_LOOKS))) throw error;
        const leastS = error.retryAfterS ?? Math.min(firstDelayS * 2 ** (tries - 1), 1);
        const delayS = leastS * (1 + 0.5 * Math.random());
        if (nowS() + delayS >= untilS) throw error;
        await pause(delayS, either);
      }
    }
  }
}
