import { setMaxListeners } from "node:events";

/** Calls f when a signal aborts, unless the function that it returns was called before. */
export function onAbort(signal: AbortSignal | undefined, f: () => void): () => void {
  if (!signal) {
    return () => undefined;
  }
  setMaxListeners(0, signal); // that one signal bounds many calls is no leak, as the default has it
  signal.addEventListener("abort", f, { once: true });
  return () => signal.removeEventListener("abort", f);
}
