// Text generation, as its tokens come.

import { ClientSideError } from "./errors.js";
import { call, events, JSON_TYPE } from "./http.js";
import type { CallOptions, Target } from "./options.js";

/** What to generate from, and how. Fields that are absent have the server's defaults. */
export interface GenerateOptions extends CallOptions {
  /** A text, for a model with a tokenizer. */
  readonly prompt?: string;
  /** Token ids in place of a text. */
  readonly tokens?: readonly number[];
  readonly maxTokens?: number;
  /** Divides the logits; 0 is greedy. */
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly repetitionPenalty?: number;
  /** The same seed repeats a text. */
  readonly seed?: number;
  /** Texts that end the generation. */
  readonly stop?: readonly string[];
}

/** One token of a generation. */
export interface Token {
  readonly id: number;
  readonly text: string;
  readonly seq: number;
}

interface Piece {
  readonly tokens: readonly Token[];
  readonly finish_reason?: string;
}

/** Tokens of a model as they come. A lost connection throws: a generation is not repeated. */
export async function* generate(
  target: Target,
  model: string,
  options: GenerateOptions,
): AsyncGenerator<Token, void, void> {
  const response = await call(target, `/models/${encodeURIComponent(model)}/generate`, {
    method: "POST",
    headers: { "content-type": JSON_TYPE },
    body: JSON.stringify(bodyOf(options)),
    signal: options.signal,
  });
  try {
    for await (const piece of events(response)) {
      const { tokens, finish_reason } = piece as Piece;
      yield* tokens;
      if (finish_reason !== undefined) return;
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    if (!(error instanceof TypeError)) throw error; // that is how fetch says so
  }
  throw new ClientSideError("CONNECTION_LOST", "the generation broke off before its end");
}

function bodyOf(options: GenerateOptions): Record<string, unknown> {
  return {
    stream: true,
    prompt: options.prompt,
    tokens: options.tokens,
    max_tokens: options.maxTokens,
    temperature: options.temperature,
    top_k: options.topK,
    top_p: options.topP,
    repetition_penalty: options.repetitionPenalty,
    seed: options.seed,
    stop: options.stop,
  };
}
