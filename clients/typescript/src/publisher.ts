import { randomUUID } from "node:crypto";

import { onAbort } from "./abort.js";
import type { CallOptions, Core } from "./client.js";
import { Deque } from "./deque.js";
import { AgainError, ClosedError, isTooLarge, OutcomeUnknownError, RejectedError, UnroutableError, WarrenError, type Reason } from "./errors.js";
import { checkText } from "./fields.js";
import { sizeOf, toWire, type Message } from "./message.js";
import type { Node, Stream } from "./node.js";
import * as wire from "./wire.js";

export interface PublisherOptions {
  /**
   * Names the publisher's series of messages instead of a random name. next is the number of the next message: number n
   * of a producer must always be the same message, also when the program runs again, such as the offset in what it reads
   * from. A program that runs again begins with the first message that it has not seen confirmed; numbers below that are
   * rejected with reason REFUSED. The broker forgets a producer after an hour without messages,
   * or before when 16,384 others came later to the same shard.
   */
  producer?: { id: string; next: number | bigint };
  /** How many messages may be unconfirmed; beyond, publishing waits. Default 4096, at most 16,000. */
  maxUnconfirmed?: number;
  /** The same for their bytes, headers included; default 16 MiB. */
  maxUnconfirmedBytes?: number;
}

/** Hears of a message's outcome: undefined when it is stored, otherwise what Publisher.publish rejects with. */
export type Outcome = (error: Error | undefined) => void;

const defaultUnconfirmed = 4096;
const mostUnconfirmed = 16_000; // the broker takes numbers that are less than 16,384 apart
const defaultUnconfirmedBytes = 16 << 20;
// What a batch holds at most; a message that is larger is alone in its batch.
const batchBytes = 128 << 10;
const batchMessages = 1024;
// A node takes requests of that size, in bytes, however it is configured.
const leastLimit = 4 << 20;

/** A message on its way. */
interface Pending {
  message: wire.Message;
  bytes: number;
  done: Outcome | undefined;
  settled: boolean;
}

/** A message that waits for room. */
interface Waiting {
  pending: Pending;
  taken: () => void;
  refused: (error: Error) => void;
  gone: boolean; // its signal aborted
}

/**
 * Publishes messages in order, in batches, and tells the outcome of each. Messages that were not confirmed when a
 * connection was lost are published again by another node and stored once.
 */
export class Publisher {
  private readonly core: Core;
  private readonly producer: string;
  private readonly maxMessages: number;
  private readonly maxBytes: number;

  // Messages are counted from 0 here; the first has this number.
  private readonly base: bigint;
  private first = 0; // the lowest that is not confirmed
  private unsent = 0; // the lowest that has not been sent on the present stream
  private next = 0; // the one after the last
  private readonly unconfirmed = new Deque<Pending>(); // from first to next - 1
  private bytes = 0; // of what is not confirmed
  private readonly waiting = new Deque<Waiting>();
  private flushes: { upTo: number; resolve: () => void; reject: (error: unknown) => void }[] = [];

  private stream: Stream<wire.PublishRequest, wire.PublishResponse> | undefined;
  private hasRoom = false; // the stream takes more
  private scheduled = false; // send is about to run
  private wake: (() => void) | undefined; // told of the first message, while there is no stream
  private closing = false; // nothing more is taken
  private error: Error | undefined; // why nothing more is sent
  private readonly quit = new AbortController();
  private readonly ended: Promise<void>;

  /** Use Client.publisher. */
  constructor(core: Core, options: PublisherOptions) {
    this.core = core;
    this.producer = options.producer?.id ?? randomUUID();
    this.base = BigInt(options.producer?.next ?? 1);
    this.maxMessages = Math.min(options.maxUnconfirmed || defaultUnconfirmed, mostUnconfirmed);
    this.maxBytes = options.maxUnconfirmedBytes || defaultUnconfirmedBytes;
    if (this.producer === "" || this.base < 1n) {
      throw new TypeError("a producer needs a name, and numbers from 1 on");
    }
    checkText(this.producer, "producer");
    this.ended = core.start(this.quit, () => this.work());
  }

  /**
   * Publishes a message and resolves when it is stored by a majority of the replicas of every queue that it is for.
   * Rejects with an UnroutableError, a RejectedError, an OutcomeUnknownError (when the publisher ends, or the signal
   * aborts, before the outcome is known), a ClosedError or a BrokerError (when it was not published at all), or a
   * TypeError or RangeError for what cannot be sent. The body must not be changed until then.
   */
  publish(message: Message, options: CallOptions = {}): Promise<void> {
    const { signal } = options;
    return new Promise<void>((resolve, reject) => {
      let over = (): void => undefined;
      const done = (error: Error | undefined) => {
        over();
        if (error) {
          reject(error);
        } else {
          resolve();
        }
      };
      const waiting = this.accept(message, done, signal, () => undefined, done);
      over = onAbort(signal, () => {
        if (!waiting?.gone) {
          reject(new OutcomeUnknownError(signal!.reason));
        }
      });
    });
  }

  /**
   * Publishes a message and resolves when there is room for it; done is called with the outcome, see publish, unless this
   * promise rejects. A program that does not wait for this promise keeps its messages in memory without a bound.
   */
  publishAsync(message: Message, done?: Outcome, options: CallOptions = {}): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      this.accept(message, done, options.signal, resolve, reject);
    });
  }

  /** Takes a message, now or when there is room; throws for one that cannot be sent. Returns its wait, if there is one. */
  private accept(message: Message, done: Outcome | undefined, signal: AbortSignal | undefined, taken: () => void, refused: (error: Error) => void): Waiting | undefined {
    signal?.throwIfAborted();
    if (this.error ?? this.closing) {
      throw this.error ?? new ClosedError();
    }
    const converted = toWire(message);
    const pending = { message: converted, bytes: sizeOf(converted), done, settled: false };
    if (this.isFull() || this.waiting.length > 0) {
      return this.wait(pending, signal, taken, refused);
    }
    this.take(pending);
    taken();
    return undefined;
  }

  /** Resolves when everything that was published so far has its outcome, and has been told. */
  flush(options: CallOptions = {}): Promise<void> {
    const upTo = this.next + this.waiting.length;
    if (this.first >= upTo) {
      return Promise.resolve();
    }
    if (this.error) {
      return Promise.reject(this.error);
    }
    const { signal } = options;
    return new Promise<void>((resolve, reject) => {
      signal?.throwIfAborted();
      const heard = onAbort(signal, () => flush.reject(signal!.reason));
      const over = () => {
        heard();
        this.flushes = this.flushes.filter((f) => f !== flush);
      };
      const flush = {
        upTo,
        resolve: () => (over(), resolve()),
        reject: (error: unknown) => (over(), reject(error)),
      };
      this.flushes.push(flush);
    });
  }

  /**
   * Takes nothing more, waits until everything has its outcome, and ends the publisher. What has none when the signal
   * aborts gets an OutcomeUnknownError.
   */
  async close(options: CallOptions = {}): Promise<void> {
    this.closing = true;
    try {
      await this.flush(options);
    } finally {
      this.quit.abort(new ClosedError());
      await this.ended;
    }
  }

  private isFull(): boolean {
    return this.next - this.first >= this.maxMessages || this.bytes >= this.maxBytes;
  }

  private wait(pending: Pending, signal: AbortSignal | undefined, taken: () => void, refused: (error: Error) => void): Waiting {
    const over = onAbort(signal, () => {
      waiting.gone = true;
      this.waiting.filter((w) => !w.gone);
      refused(signal!.reason);
      for (const flush of [...this.flushes]) {
        this.checkFlush(flush); // it may have waited for this one
      }
    });
    const waiting: Waiting = {
      pending,
      taken: () => (over(), taken()),
      refused: (error) => (over(), refused(error)),
      gone: false,
    };
    this.waiting.push(waiting);
    return waiting;
  }

  private checkFlush(flush: { upTo: number; resolve: () => void }): void {
    if (this.first >= Math.min(flush.upTo, this.next + this.waiting.length)) {
      flush.resolve();
    }
  }

  /** Gives a message its number. */
  private take(pending: Pending): void {
    this.unconfirmed.push(pending);
    this.next++;
    this.bytes += pending.bytes;
    this.wake?.();
    this.schedule();
  }

  /** Has what was published in this turn of the event loop sent together. */
  private schedule(): void {
    if (!this.scheduled && this.hasRoom) {
      this.scheduled = true;
      setImmediate(() => {
        this.scheduled = false;
        this.send();
      });
    }
  }

  /** Sends until the publisher is closed or cannot go on. */
  private async work(): Promise<void> {
    let reason: unknown;
    try {
      await this.core.stream("publisher", this.quit.signal, (node, signal, up) => this.run(node, signal, up));
    } catch (error) {
      reason = error;
    }
    const failure = reason instanceof Error ? reason : new WarrenError(String(reason));
    this.error = failure;
    for (let i = 0; i < this.unconfirmed.length; i++) {
      const { done, settled } = this.unconfirmed.at(i);
      if (!settled) {
        tell(done, new OutcomeUnknownError(failure));
      }
    }
    for (let w = this.waiting.shift(); w; w = this.waiting.shift()) {
      w.refused(failure);
    }
    for (const flush of [...this.flushes]) {
      flush.reject(failure);
    }
  }

  /** Sends on one stream. */
  private async run(node: Node, signal: AbortSignal, up: () => void): Promise<never> {
    await this.waitForWork(signal);
    const stream = await node.stream(wire.publish, signal);
    stream.onResponse((response) => {
      if (response.confirms) {
        up();
        this.settle(response.confirms.confirms);
      } else if (response.blocked?.reason) {
        this.core.logger.warn("publishers are blocked", { reason: response.blocked.reason });
      } else {
        this.core.logger.info("publishers are not blocked any more", {});
      }
    });
    stream.onRoom(() => {
      if (this.stream === stream) { // and not one before
        this.hasRoom = true;
        this.send();
      }
    });
    this.stream = stream;
    this.unsent = this.first;
    this.hasRoom = stream.send({ start: { producerId: this.producer } });
    this.send();
    try {
      return await stream.ended;
    } catch (error) {
      if (isTooLarge(error) && this.rejectLargest(error.details)) {
        up();
        throw new AgainError();
      }
      throw error;
    } finally {
      this.stream = undefined;
      this.hasRoom = false;
      stream.cancel();
    }
  }

  /**
   * Rejects the largest message that was sent on the present stream, which the node has ended since a request was too
   * large: that message was too large if any was. False: none of them can have been.
   */
  private rejectLargest(detail: string): boolean {
    let largest = -1;
    for (let n = this.first, bytes = leastLimit; n < this.unsent; n++) {
      const pending = this.unconfirmed.at(n - this.first);
      if (!pending.settled && pending.bytes > bytes) {
        largest = n;
        bytes = pending.bytes;
      }
    }
    if (largest < 0) {
      return false;
    }
    const number = this.number(largest);
    this.settle([{ firstSequence: number, lastSequence: number, outcome: "OUTCOME_REJECTED", reason: "ERROR_REASON_PRECONDITION_FAILED", detail }]);
    return true;
  }

  /** Waits until there is something to send: an idle publisher needs no stream. */
  private async waitForWork(signal: AbortSignal): Promise<void> {
    if (this.unconfirmed.length > 0) {
      return;
    }
    await new Promise<void>((resolve, reject) => {
      signal.throwIfAborted();
      const over = onAbort(signal, () => reject(signal.reason));
      this.wake = () => {
        this.wake = undefined;
        over();
        resolve();
      };
    });
  }

  /** Sends batches while there are messages, and room for them. */
  private send(): void {
    while (this.hasRoom && this.stream) {
      const batch = this.fill();
      if (!batch) {
        return;
      }
      this.hasRoom = this.stream.send({ batch });
    }
  }

  /** Takes the next messages to send, with consecutive numbers. */
  private fill(): wire.PublishRequest["batch"] {
    this.unsent = Math.max(this.unsent, this.first);
    while (this.unsent < this.next && this.unconfirmed.at(this.unsent - this.first).settled) {
      this.unsent++; // confirmed out of turn, before the stream
    }
    const from = this.unsent;
    const messages: wire.Message[] = [];
    for (let bytes = 0; this.unsent < this.next && messages.length < batchMessages; this.unsent++) {
      const pending = this.unconfirmed.at(this.unsent - this.first);
      bytes += pending.bytes;
      if (pending.settled || (bytes > batchBytes && messages.length > 0)) {
        break;
      }
      messages.push(pending.message);
    }
    return messages.length > 0 ? { firstSequence: this.number(from), lowestUnconfirmed: this.number(this.first), messages } : undefined;
  }

  private number(n: number): string {
    return (this.base + BigInt(n)).toString();
  }

  /** Notes outcomes and tells them. */
  private settle(confirms: wire.Confirm[]): void {
    for (const confirm of confirms) {
      const last = Number(BigInt(confirm.lastSequence) - this.base);
      for (let n = Math.max(Number(BigInt(confirm.firstSequence) - this.base), this.first); n <= last && n < this.next; n++) {
        const pending = this.unconfirmed.at(n - this.first);
        if (!pending.settled) {
          pending.settled = true;
          this.bytes -= pending.bytes;
          tell(pending.done, outcomeOf(confirm));
          pending.message = gone;
          pending.done = undefined;
        }
      }
    }
    while (this.unconfirmed.length > 0 && this.unconfirmed.at(0).settled) {
      this.unconfirmed.shift();
      this.first++;
    }
    while (this.waiting.length > 0 && !this.isFull()) {
      const waiting = this.waiting.shift()!;
      this.take(waiting.pending);
      waiting.taken();
    }
    for (const flush of [...this.flushes]) {
      this.checkFlush(flush);
    }
  }
}

/** Stands for a message that is not needed any more. */
const gone: wire.Message = { exchange: "", routingKey: "", body: Buffer.alloc(0) };

/** Tells an outcome. What the callback throws is the program's fault, and is not caught, like that of any listener. */
function tell(done: Outcome | undefined, error: Error | undefined): void {
  try {
    done?.(error);
  } catch (thrown) {
    queueMicrotask(() => {
      throw thrown;
    });
  }
}

function outcomeOf(confirm: wire.Confirm): Error | undefined {
  switch (confirm.outcome) {
    case "OUTCOME_CONFIRMED":
      return undefined;
    case "OUTCOME_UNROUTABLE":
      return new UnroutableError();
    default:
      return new RejectedError(confirm.reason.replace("ERROR_REASON_", "") as Reason, confirm.detail);
  }
}
