// Waiting for what the core will end, and for the next try.

import type { Ticket } from "./core/tickets.js";

/** Until a ticket ends. Rejects with its error, or with the signal's reason. */
export function ended<T extends Ticket>(ticket: T, signal?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal?.reason);
    ticket.wake = () => {
      signal?.removeEventListener("abort", abort);
      if (ticket.error === undefined) resolve(ticket);
      else reject(ticket.error);
    };
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}

/** A pause. Rejects with the signal's reason. */
export function pause(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, seconds * 1000);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
}
