import { onAbort } from "./abort.js";
import type { CallOptions, Core } from "./client.js";
import { Deque } from "./deque.js";
import { AgainError, ClosedError, during, isDeliveryTimeout, isTransient, SettledError, textOf } from "./errors.js";
import { toFields, type Table } from "./fields.js";
import { fromWire, type ReceivedMessage } from "./message.js";
import type { Node, Stream } from "./node.js";
import { bindingToWire, type Binding } from "./topology.js";
import * as wire from "./wire.js";

export interface ConsumeOptions extends CallOptions {
  /** How many deliveries may be unsettled, on their way or in the program's hands. Default 256; 1 is fair dispatch. */
  credit?: number;
  /** Deliveries count as settled when they are sent: those on their way are lost with the connection. */
  autoSettle?: boolean;
  /** Nobody else may consume the queue. */
  exclusive?: boolean;
  /** Of the consumers that can take a message, those of the highest priority get it. */
  priority?: number;
  /** Names the consumer in listings. */
  tag?: string;
  /**
   * Makes the queue for the consumer alone. It goes with the consumer; after a lost connection it is another, and what was
   * in it is gone. With an empty name, the broker makes one.
   */
  temporary?: boolean | { bindings?: Omit<Binding, "destination">[]; arguments?: Table };
}

const defaultCredit = 256;
const mostCredit = 65_535;
// The longest delay that the broker takes: a day.
const mostDelayMs = 24 * 60 * 60 * 1000;
// Bounds the wait for the broker when a consumer is closed.
const closeTimeoutMs = 5_000;

/** A message in the program's hands. One of ack, requeue, fail and discard settles it, unless the consumer settles by itself. */
export interface Delivery extends ReceivedMessage {
  /** The message was handed out before. */
  readonly redelivered: boolean;
  /** Returns the body as text. */
  text(): string;
  /**
   * Settles the delivery as done: the message is gone. As with the others below, the promise resolves with false when the
   * delivery's connection was lost or its consumer is closed: the message is delivered again. It rejects with a
   * SettledError when the delivery is settled already.
   */
  ack(): Promise<boolean>;
  /**
   * Gives the message back to its place in the queue, after a delay of so many milliseconds, up to a day: until then nobody
   * gets it, and it takes nothing of the consumer's credit. The delay is kept by the cluster, whatever becomes of this
   * program. The promise rejects with a RangeError when the delay is not one of these.
   */
  requeue(delayMs?: number): Promise<boolean>;
  /**
   * Gives the message back, as requeue does, and counts a failed delivery; a queue may have a limit for those. With a delay
   * it is the way to try again later.
   */
  fail(delayMs?: number): Promise<boolean>;
  /** Settles the delivery as one that can never be done: the message is dead-lettered or dropped. */
  discard(): Promise<boolean>;
  /**
   * Says that the delivery is still being worked on: the time that it may be out, the queue's x-consumer-timeout or the
   * node's, begins anew. The promise is like ack's.
   */
  extend(): Promise<boolean>;
}

/** Settles deliveries. */
interface Settler {
  readonly over: boolean;
  settle(tag: number, settlement: wire.Settlement, delayMs: number): Promise<boolean>;
  extend(tag: number): Promise<boolean>;
}

class Received implements Delivery {
  declare exchange: string;
  declare routingKey: string;
  declare body: Buffer;
  declare headers: Table;
  declare transient: boolean;
  readonly redelivered: boolean;
  readonly #tag: number;
  readonly #settler: Settler | undefined; // undefined: settled already

  constructor(delivery: wire.Delivery, settler: Settler | undefined) {
    Object.assign(this, fromWire(delivery.message));
    this.redelivered = delivery.redelivered;
    this.#tag = Number(delivery.deliveryTag);
    this.#settler = settler;
  }

  /** Tells that the delivery's stream is over, and that the message comes again. */
  static isStale(d: Received): boolean {
    return d.#settler?.over ?? false;
  }

  text(): string {
    return this.body.toString();
  }

  ack(): Promise<boolean> {
    return this.#settle("SETTLEMENT_ACK");
  }

  requeue(delayMs = 0): Promise<boolean> {
    return this.#settle("SETTLEMENT_REQUEUE", delayMs);
  }

  fail(delayMs = 0): Promise<boolean> {
    return this.#settle("SETTLEMENT_REQUEUE_FAILED", delayMs);
  }

  discard(): Promise<boolean> {
    return this.#settle("SETTLEMENT_DISCARD");
  }

  extend(): Promise<boolean> {
    return this.#settler?.extend(this.#tag) ?? settled;
  }

  #settle(settlement: wire.Settlement, delayMs = 0): Promise<boolean> {
    if (!(delayMs >= 0 && delayMs <= mostDelayMs)) {
      return Promise.reject(new RangeError(`a delay of ${delayMs} ms is not from 0 to ${mostDelayMs}`));
    }
    return this.#settler?.settle(this.#tag, settlement, Math.ceil(delayMs)) ?? settled; // one that is not 0 is at least 1
  }
}

/** Who waits for a delivery. */
interface Waiter {
  resolve: (d: Delivery) => void;
  reject: (error: unknown) => void;
}

/**
 * Receives a queue's messages. After a lost connection it goes on by another node; what was not settled comes again,
 * marked as redelivered. So it does after a delivery that was out for longer than the consumer timeout.
 */
export class Consumer implements AsyncIterable<Delivery> {
  private readonly core: Core;
  private readonly request: wire.ConsumeStart;
  private readonly deliveries = new Deque<Received>();
  private readonly waiters = new Deque<Waiter>();
  private readonly quit = new AbortController();
  private stream: ConsumeStream | undefined;
  private name: string;
  private closing = false;
  private error: unknown; // why the consumer ended

  private constructor(core: Core, request: wire.ConsumeStart) {
    this.core = core;
    this.request = request;
    this.name = request.queue;
  }

  /** Use Client.consume. */
  static async start(core: Core, queue: string, options: ConsumeOptions): Promise<Consumer> {
    const { signal } = options;
    signal?.throwIfAborted();
    const consumer = new Consumer(core, startOf(queue, options));
    const over = onAbort(signal, () => consumer.quit.abort(signal!.reason));
    try {
      await new Promise<void>((started, reject) => {
        consumer.ended = core.start(consumer.quit, () => consumer.work(started));
        void consumer.ended.then(() => reject(consumer.error));
      });
    } catch (error) {
      throw during(`consume "${queue}"`, error);
    } finally {
      over();
    }
    return consumer;
  }
  private ended: Promise<void> = Promise.resolve();

  /** The name of the queue: of a temporary one, the present. */
  get queue(): string {
    return this.name;
  }

  /** Resolves with the next delivery; rejects with a ClosedError after close, or with why the consumer cannot go on. */
  next(options: CallOptions = {}): Promise<Delivery> {
    const { signal } = options;
    if (signal?.aborted) {
      return Promise.reject(signal.reason);
    }
    for (let d = this.deliveries.shift(); d; d = this.deliveries.shift()) {
      this.checkRoom();
      if (!Received.isStale(d)) {
        return Promise.resolve(d);
      }
    }
    if (this.error !== undefined || this.closing) {
      return Promise.reject(this.error ?? new ClosedError());
    }
    return new Promise<Delivery>((resolve, reject) => {
      const over = onAbort(signal, () => {
        this.waiters.filter((w) => w !== waiter);
        reject(signal!.reason);
      });
      const waiter: Waiter = {
        resolve: (d) => (over(), resolve(d)),
        reject: (error) => (over(), reject(error)),
      };
      this.waiters.push(waiter);
    });
  }

  /** Yields deliveries until the consumer is closed; throws when it cannot go on. Leaving the loop does not close it. */
  [Symbol.asyncIterator](): AsyncGenerator<Delivery, void, void> {
    return this.messages();
  }

  /** Yields deliveries like the consumer itself, and throws the signal's reason when that aborts. Loops share the deliveries. */
  async *messages(options: CallOptions = {}): AsyncGenerator<Delivery, void, void> {
    for (;;) {
      let delivery: Delivery;
      try {
        delivery = await this.next(options);
      } catch (error) {
        if (error instanceof ClosedError) {
          return;
        }
        throw error;
      }
      yield delivery;
    }
  }

  /** Ends the consumer, once the broker has what was settled. What is not settled goes back to the queue. */
  async close(): Promise<void> {
    if (!this.closing) {
      this.closing = true;
      this.deliveries.filter(() => false);
      this.stopWaiters(new ClosedError());
      if (this.stream) {
        this.stream.close();
      } else {
        this.quit.abort(new ClosedError());
      }
    }
    const timer = setTimeout(() => this.quit.abort(new ClosedError()), closeTimeoutMs);
    await this.ended;
    clearTimeout(timer);
  }

  /** Consumes until the consumer is closed or cannot go on. */
  private async work(started: () => void): Promise<void> {
    let reason: unknown;
    this.core.consumers.add(this);
    try {
      await this.core.stream(`consumer of ${this.request.queue}`, this.quit.signal, (node, signal, up) => this.run(node, signal, up, started));
    } catch (error) {
      reason = error;
    }
    this.core.consumers.delete(this);
    this.error = this.closing ? new ClosedError() : reason;
    this.stopWaiters(this.error);
  }

  private stopWaiters(error: unknown): void {
    for (let w = this.waiters.shift(); w; w = this.waiters.shift()) {
      w.reject(error);
    }
  }

  /** Consumes by one stream. */
  private async run(node: Node, signal: AbortSignal, up: () => void, started: () => void): Promise<never> {
    this.checkOpen();
    const stream = await node.stream(wire.consume, signal);
    this.checkOpen();
    const own = new ConsumeStream(stream, this.request.autoSettle ?? false);
    let cancel: () => void = () => undefined;
    const cancelled = new Promise<never>((_, reject) => {
      cancel = () => reject(new AgainError()); // a queue that is gone is found out then
    });
    stream.onResponse((response) => {
      if (response.started) {
        up();
        this.name = response.started.queue;
        started();
      } else if (response.cancelled) {
        cancel();
      }
      for (const d of response.deliveries?.deliveries ?? []) {
        this.deliver(own.received(d));
      }
      this.checkRoom();
    });
    this.stream = own;
    stream.send({ start: this.request });
    try {
      return await Promise.race([stream.ended, cancelled]);
    } catch (error) {
      if (this.closing && isTransient(error)) {
        throw new ClosedError();
      }
      if (isDeliveryTimeout(error)) {
        this.core.logger.warn("a delivery was not settled in time; the consumer starts again", { queue: this.name, error: textOf(error) });
        throw new AgainError();
      }
      throw error;
    } finally {
      this.stream = undefined;
      own.end();
      stream.cancel();
      this.deliveries.filter((d) => !Received.isStale(d));
    }
  }

  private checkOpen(): void {
    if (this.closing) {
      throw new ClosedError();
    }
  }

  private deliver(d: Received): void {
    const waiter = this.waiters.shift();
    if (waiter) {
      waiter.resolve(d);
    } else if (!this.closing) {
      this.deliveries.push(d);
    }
  }

  /** Stops and starts reading, for deliveries that are settled when they are sent: the broker sends them without regard to credit. */
  private checkRoom(): void {
    this.stream?.setPaused(this.deliveries.length >= this.request.credit && !this.closing);
  }
}

function startOf(queue: string, options: ConsumeOptions): wire.ConsumeStart {
  const credit = options.credit ?? defaultCredit;
  if (!(Number.isInteger(credit) && credit >= 1 && credit <= mostCredit)) {
    throw new RangeError(`credit ${credit} is not a whole number from 1 to ${mostCredit}`);
  }
  const start: wire.ConsumeStart = {
    queue,
    credit,
    autoSettle: options.autoSettle,
    exclusive: options.exclusive,
    priority: options.priority,
    consumerTag: options.tag,
  };
  if (options.temporary) {
    const { bindings = [], arguments: table } = options.temporary === true ? {} : options.temporary;
    start.temporary = { bindings: bindings.map(bindingToWire), arguments: toFields(table) };
  }
  return start;
}

const settled = Promise.resolve(true);
const lost = Promise.resolve(false);

/** One stream of deliveries. It collects what is settled and sends it together. */
class ConsumeStream implements Settler {
  over = false;
  private readonly held = new Set<number>(); // tags in the program's hands, ascending
  // By tag: settled and not sent, in order of settling.
  private readonly changed = new Map<number, { settlement: wire.Settlement; delayMs: number }>();
  private readonly extended = new Set<number>(); // tags to be extended, not sent
  private scheduled = false; // send is about to run
  private hasRoom = true; // the stream takes more
  private closing = false;
  private paused = false;

  constructor(
    private readonly stream: Stream<wire.ConsumeRequest, wire.ConsumeResponse>,
    private readonly automatic: boolean,
  ) {
    stream.onRoom(() => {
      this.hasRoom = true;
      this.send();
    });
  }

  /** Notes a delivery. Their tags grow. */
  received(d: wire.Delivery): Received {
    if (this.automatic) {
      return new Received(d, undefined);
    }
    this.held.add(Number(d.deliveryTag));
    return new Received(d, this);
  }

  settle(tag: number, settlement: wire.Settlement, delayMs: number): Promise<boolean> {
    return this.change(tag, () => {
      this.held.delete(tag);
      this.changed.set(tag, { settlement, delayMs });
    });
  }

  extend(tag: number): Promise<boolean> {
    return this.change(tag, () => this.extended.add(tag));
  }

  /** Notes what becomes of a delivery in the program's hands, to be sent with the rest of this turn. */
  private change(tag: number, note: () => void): Promise<boolean> {
    if (this.over || this.closing) {
      return lost;
    }
    if (!this.held.has(tag)) {
      return Promise.reject(new SettledError());
    }
    note();
    if (!this.scheduled) {
      this.scheduled = true;
      setImmediate(() => {
        this.scheduled = false;
        this.send();
      });
    }
    return settled;
  }

  setPaused(paused: boolean): void {
    if (paused !== this.paused) {
      this.paused = paused;
      if (paused) {
        this.stream.pause();
      } else {
        this.stream.resume();
      }
    }
  }

  /** Sends what is settled and then the end. */
  close(): void {
    this.closing = true;
    this.setPaused(false);
    this.send();
  }

  end(): void {
    this.over = true;
  }

  private send(): void {
    if (!this.hasRoom || this.over) {
      return;
    }
    if (this.extended.size > 0) {
      // First: what is settled cannot be extended.
      this.hasRoom = this.stream.send({ extendLeases: { deliveryTags: Array.from(this.extended, String) } });
      this.extended.clear();
    }
    const settles = this.take();
    if (settles.length > 0) {
      this.hasRoom = this.stream.send({ settles: { settles } });
    }
    if (this.closing) {
      this.stream.closeSend();
    }
  }

  /** Turns what was settled into as few settles as can be: what is done from the front on is one. */
  private take(): wire.Settle[] {
    const settles: wire.Settle[] = [];
    const [firstHeld = Infinity] = this.held;
    let front = 0; // the last of the front that the broker does not know of
    for (const tag of [...this.changed.keys()].sort((a, b) => a - b)) {
      if (tag > firstHeld || this.changed.get(tag)!.settlement !== "SETTLEMENT_ACK") {
        break;
      }
      front = tag;
    }
    if (front > 0) {
      settles.push({ deliveryTag: front.toString(), multiple: true, settlement: "SETTLEMENT_ACK" });
    }
    for (const [tag, { settlement, delayMs }] of this.changed) {
      if (tag > front) {
        settles.push({ deliveryTag: tag.toString(), settlement, delayMillis: delayMs.toString() });
      }
    }
    this.changed.clear();
    return settles;
  }
}

/** Takes one message; undefined when there is none. */
export async function get(core: Core, queue: string, autoSettle: boolean, signal: AbortSignal | undefined): Promise<Delivery | undefined> {
  try {
    return await core.call((node, s) => fetch(core, node, { queue, autoSettle }, s), signal);
  } catch (error) {
    throw during(`get from "${queue}"`, error);
  }
}

async function fetch(core: Core, node: Node, request: Required<wire.GetRequest>["fetch"], signal: AbortSignal): Promise<Delivery | undefined> {
  const stream = await node.stream(wire.get, core.signal);
  const over = onAbort(signal, () => stream.cancel());
  try {
    const answer = new Promise<wire.GetResponse>((resolve) => stream.onResponse(resolve));
    stream.send({ fetch: request });
    const { delivery } = await Promise.race([answer, stream.ended]);
    if (delivery && !request.autoSettle) {
      return new Received(delivery, new GetStream(stream));
    }
    stream.closeSend();
    return delivery ? new Received(delivery, undefined) : undefined;
  } finally {
    over();
  }
}

/** Holds one message. */
class GetStream implements Settler {
  readonly over = false;
  private settling: Promise<boolean> | undefined;

  constructor(private readonly stream: Stream<wire.GetRequest, wire.GetResponse>) {}

  /** Settles the message and waits until the broker has done so. */
  settle(tag: number, settlement: wire.Settlement, delayMs: number): Promise<boolean> {
    if (this.settling) {
      return Promise.reject(new SettledError());
    }
    this.stream.send({ settle: { deliveryTag: tag.toString(), settlement, delayMillis: delayMs.toString() } });
    this.stream.closeSend();
    // The node ends the stream without an error once it is done.
    this.settling = this.stream.ended.catch((error: unknown) => error instanceof AgainError);
    return this.settling;
  }

  extend(tag: number): Promise<boolean> {
    if (this.settling) {
      return Promise.reject(new SettledError());
    }
    if (this.stream.over) {
      return lost;
    }
    this.stream.send({ extendLeases: { deliveryTags: [tag.toString()] } });
    return settled;
  }
}
