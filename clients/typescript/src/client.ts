import * as grpc from "@grpc/grpc-js";

import { onAbort } from "./abort.js";
import * as admin from "./admin.js";
import { Consumer, get, type ConsumeOptions, type Delivery } from "./consumer.js";
import { AgainError, ClosedError, fromStatus, isLocked, isTransient, SettledError, textOf } from "./errors.js";
import { Node, type TlsOptions } from "./node.js";
import { Publisher, type PublisherOptions } from "./publisher.js";
import { Topology, type Binding, type DeleteOptions, type Exchange, type Queue, type QueueInfo } from "./topology.js";

/** Takes what happens to connections, such as `console`. */
export interface Logger {
  info(message: string, fields: Record<string, unknown>): void;
  warn(message: string, fields: Record<string, unknown>): void;
}

export interface ClientOptions {
  /** Default guest, who may come from the broker's own machine alone. Empty: the client's certificate says who it is. */
  user?: string;
  password?: string;
  /** A bearer token (see `warren token create`), which is shown instead of a user and password. */
  token?: string;
  /** The virtual host; default "/". */
  vhost?: string;
  /** Makes all connections use TLS; plain text is the default. */
  tls?: TlsOptions;
  /** Where connections lost and found are told; nowhere is the default. */
  logger?: Logger;
  /** Bounds the pause between attempts, which grows from the least to the most while all nodes fail. Default 50 ms and 2 s. */
  reconnectDelayMs?: { least: number; most: number };
  /** More options of the gRPC channels. */
  channelOptions?: grpc.ChannelOptions;
  /** Interceptors of all calls, such as those that trace. */
  interceptors?: grpc.Interceptor[];
}

/** Bounds a call. */
export interface CallOptions {
  /** Ends the wait: the promise rejects with its reason. */
  signal?: AbortSignal;
}

/** A handler of deliveries; they are settled as failed when its promise rejects, unless it has settled them. */
export type Handler = (delivery: Delivery) => Promise<void> | void;

export interface HandleOptions extends ConsumeOptions {
  /** How many handlers run at a time; default 1. */
  workers?: number;
}

/** Talks to a cluster by one of its nodes, and moves on to another when that fails. */
export class Client {
  private readonly core: Core;
  private readonly topology: Topology;

  /** For nodes at addresses HOST:PORT (gRPC ports, 7672 by default). It connects when it is used. */
  constructor(addresses: readonly string[], options: ClientOptions = {}) {
    this.core = new Core(addresses, options);
    this.topology = new Topology(this.core);
  }

  /** Returns a new publisher. */
  publisher(options: PublisherOptions = {}): Publisher {
    return new Publisher(this.core, options);
  }

  /** Starts a consumer and resolves when it runs. The signal bounds the start alone. */
  consume(queue: string, options: ConsumeOptions = {}): Promise<Consumer> {
    return Consumer.start(this.core, queue, options);
  }

  /**
   * Consumes a queue until the signal aborts, and resolves then; rejects when the consumer cannot go on. Messages whose
   * handler resolves are settled as done, others as failed, unless the handler has settled them.
   */
  async handle(queue: string, handler: Handler, options: HandleOptions = {}): Promise<void> {
    const { workers = 1, signal, ...consume } = options;
    if (signal?.aborted) {
      return;
    }
    const consumer = await this.consume(queue, consume);
    try {
      const works = Array.from({ length: Math.max(1, workers) }, () => this.work(consumer, handler, signal));
      for (const ended of await Promise.allSettled(works)) {
        if (ended.status === "rejected" && !signal?.aborted) {
          throw ended.reason;
        }
      }
    } finally {
      await consumer.close();
    }
  }

  private async work(consumer: Consumer, handler: Handler, signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      const delivery = await consumer.next({ signal });
      let done = true;
      try {
        await handler(delivery);
      } catch (error) {
        this.core.logger.info("handler failed", { queue: consumer.queue, error: textOf(error) });
        done = false;
      }
      try {
        await (done ? delivery.ack() : delivery.fail());
      } catch (error) {
        if (!(error instanceof SettledError)) {
          throw error;
        }
      }
    }
  }

  /**
   * Takes one message; undefined when the queue is empty. Unless it settles by itself, the delivery must be settled, or
   * the message goes back when the client closes or its node fails.
   */
  get(queue: string, options: CallOptions & { autoSettle?: boolean } = {}): Promise<Delivery | undefined> {
    return get(this.core, queue, options.autoSettle ?? false, options.signal);
  }

  /** Makes sure that a queue is there as described, now and after every lost connection. */
  declareQueue(queue: Queue, options: CallOptions = {}): Promise<QueueInfo> {
    return this.topology.declareQueue(queue, options.signal);
  }

  /** Returns what a queue holds; rejects with a BrokerError of reason NOT_FOUND when it is not there. */
  inspectQueue(name: string, options: CallOptions = {}): Promise<QueueInfo> {
    return this.topology.inspectQueue(name, options.signal);
  }

  /** Removes a queue and returns how many ready messages it had. One that is not there is no error. */
  deleteQueue(name: string, options: CallOptions & DeleteOptions = {}): Promise<number> {
    return this.topology.deleteQueue(name, options, options.signal);
  }

  /** Makes sure that an exchange is there as described, now and after every lost connection. */
  declareExchange(exchange: Exchange, options: CallOptions = {}): Promise<void> {
    return this.topology.declareExchange(exchange, options.signal);
  }

  /** Removes an exchange and its bindings. One that is not there is no error. */
  deleteExchange(name: string, options: CallOptions & Pick<DeleteOptions, "ifUnused"> = {}): Promise<void> {
    return this.topology.deleteExchange(name, options, options.signal);
  }

  /** Adds a binding, now and after every lost connection. */
  bind(binding: Binding, options: CallOptions = {}): Promise<void> {
    return this.topology.bind(binding, options.signal);
  }

  /** Removes a binding. One that is not there is no error. */
  unbind(binding: Binding, options: CallOptions = {}): Promise<void> {
    return this.topology.unbind(binding, options.signal);
  }

  /** Yields the queues of the virtual host that the user may see, by name, with their counts. */
  queues(options: CallOptions = {}): AsyncGenerator<admin.QueueStatus, void, void> {
    return admin.queues(this.core, options.signal);
  }

  /** Yields the exchanges of the virtual host that the user may see, by name. */
  exchanges(options: CallOptions = {}): AsyncGenerator<Required<Exchange>, void, void> {
    return admin.exchanges(this.core, options.signal);
  }

  /** Yields the bindings that the user may see, from an exchange and to a queue or exchange; left out: any. */
  bindings(options: CallOptions & { source?: string; destination?: string } = {}): AsyncGenerator<Required<Binding>, void, void> {
    return admin.bindings(this.core, options.source ?? "", options.destination ?? "", options.signal);
  }

  /** Drops the ready messages of a queue and returns how many there were. */
  purgeQueue(name: string, options: CallOptions = {}): Promise<number> {
    return admin.purgeQueue(this.core, name, options.signal);
  }

  /** Returns ready messages without consuming them. */
  peek(queue: string, options: CallOptions & admin.PeekOptions = {}): Promise<admin.PeekedMessage[]> {
    return admin.peek(this.core, queue, options, options.signal);
  }

  /** Asks the node in use what it knows of its cluster. */
  status(options: CallOptions = {}): Promise<admin.Status> {
    return admin.status(this.core, options.signal);
  }

  /**
   * Ends all consumers, as their close does, and then publishers and calls without waiting for what is under way, and the
   * connections. Publisher.close waits.
   */
  close(): Promise<void> {
    return this.core.close();
  }
}

/** One thing of the topology that the client has made. */
interface Declared {
  key: string;
  make: (node: Node, signal: AbortSignal) => Promise<unknown>;
}

/** What publishers, consumers and calls share: the nodes, which of them is in use, and what to declare again. */
export class Core {
  readonly logger: Logger;
  private readonly nodes: Node[];
  private readonly delay: { least: number; most: number };
  private readonly quit = new AbortController();
  private readonly works = new Set<Promise<unknown>>();
  /** Those that run: they are closed with the client. */
  readonly consumers = new Set<{ close(): Promise<void> }>();
  private closing = false;
  private current = 0;
  /** Counts the changes of current, and of the connection to it. */
  private generation = 0;
  /** The generation for which the topology has been declared again. */
  private restored = 0;
  private declared: Declared[] = [];

  constructor(addresses: readonly string[], options: ClientOptions) {
    if (addresses.length === 0) {
      throw new TypeError("no addresses");
    }
    this.logger = options.logger ?? { info: () => undefined, warn: () => undefined };
    this.delay = options.reconnectDelayMs ?? { least: 50, most: 2000 };
    const shared = {
      metadata: login(options),
      tls: options.tls,
      reconnectDelayMs: this.delay,
      channelOptions: options.channelOptions ?? {},
      interceptors: options.interceptors ?? [],
    };
    this.nodes = addresses.map((address) => new Node(address, shared));
  }

  /** Aborts when the client closes. */
  get signal(): AbortSignal {
    return this.quit.signal;
  }

  async close(): Promise<void> {
    this.closing = true;
    await Promise.all([...this.consumers].map((consumer) => consumer.close()));
    this.quit.abort(new ClosedError());
    await Promise.allSettled(this.works);
    for (const node of this.nodes) {
      node.close();
    }
  }

  private checkOpen(): void {
    if (this.closing) {
      throw new ClosedError();
    }
  }

  /** Runs the work of a publisher or consumer, which ends by its own controller and with the client. */
  start(own: AbortController, work: () => Promise<void>): Promise<void> {
    this.checkOpen();
    const over = onAbort(this.quit.signal, () => own.abort(this.quit.signal.reason));
    const done = work().finally(() => {
      over();
      this.works.delete(done);
    });
    this.works.add(done);
    return done;
  }

  /** Makes a call that may be repeated, on one node after the other until one answers. */
  async call<T>(f: (node: Node, signal: AbortSignal) => Promise<T>, outer?: AbortSignal): Promise<T> {
    this.checkOpen();
    outer?.throwIfAborted();
    const own = new AbortController();
    const overs = [this.quit.signal, outer].map((s) => onAbort(s, () => own.abort(s!.reason)));
    try {
      return await this.tries(f, own.signal);
    } finally {
      overs.forEach((over) => over());
    }
  }

  private async tries<T>(f: (node: Node, signal: AbortSignal) => Promise<T>, signal: AbortSignal): Promise<T> {
    const attempts = new Attempts(this.nodes.length, this.delay);
    for (;;) {
      const generation = this.generation;
      try {
        return await f(this.nodes[this.current]!, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (!isTransient(error)) {
          throw fromStatus(error);
        }
        this.lost(generation, error);
      }
      await attempts.wait(signal);
    }
  }

  /**
   * Opens a stream, and opens it again whenever it ends for a reason that another node may not have. run opens it and
   * rejects when it is over; it calls up when the node serves. Rejects with what does not pass, or the signal's reason.
   * That a queue is locked passes, once a node has served: it may be by the stream before, whose node is silent.
   */
  async stream(what: string, signal: AbortSignal, run: (node: Node, signal: AbortSignal, up: () => void) => Promise<never>): Promise<never> {
    const attempts = new Attempts(this.nodes.length, this.delay);
    for (;;) {
      signal.throwIfAborted();
      const generation = this.generation;
      const node = this.nodes[this.current]!;
      try {
        await this.restore(node, generation, signal);
        await run(node, signal, () => attempts.succeeded());
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof AgainError) {
          this.logger.info("stream is opened again", { what });
        } else if (isTransient(error)) {
          attempts.notLocked();
          this.lost(generation, error);
        } else if (!isLocked(error) || !attempts.mayBeLocked(() => this.tellLocked(what, error))) {
          throw fromStatus(error);
        }
      }
      await attempts.wait(signal);
    }
  }

  /**
   * Tells that a call on a connection failed in a way that another node may do better. Only the first to tell of a
   * generation counts.
   */
  private lost(generation: number, error: unknown): void {
    if (generation !== this.generation) {
      return;
    }
    const before = this.nodes[this.current]!.address;
    this.generation++;
    this.current = (this.current + 1) % this.nodes.length;
    this.logger.warn("node does not serve; trying the next", { node: before, next: this.nodes[this.current]!.address, error: textOf(error) });
  }

  private tellLocked(what: string, error: unknown): void {
    this.logger.info("locked, it may be by the connection before", { what, error: textOf(error) });
  }

  /** Notes something that was declared. */
  remember(key: string, make: Declared["make"]): void {
    this.declared = this.declared.filter((d) => d.key !== key);
    this.declared.push({ key, make });
  }

  /** Drops what was deleted. */
  forget(gone: (key: string) => boolean): void {
    this.declared = this.declared.filter((d) => !gone(d.key));
  }

  /** Declares everything again after a connection was lost, once for each. */
  private async restore(node: Node, generation: number, signal: AbortSignal): Promise<void> {
    if (this.restored >= generation) {
      return;
    }
    for (const d of [...this.declared]) {
      try {
        await d.make(node, signal);
      } catch (error) {
        signal.throwIfAborted();
        if (isTransient(error)) {
          throw error;
        }
        this.logger.warn("cannot be declared again", { what: d.key.replaceAll("\0", " "), error: textOf(error) });
      }
    }
    this.restored = Math.max(this.restored, generation);
  }
}

/** Puts credentials and virtual host into the metadata of calls. */
function login(options: ClientOptions): grpc.Metadata {
  const { user = "guest", password = "guest", token = "", vhost = "/" } = options;
  const metadata = new grpc.Metadata();
  metadata.set("warren-vhost", vhost);
  if (token !== "") {
    metadata.set("authorization", `Bearer ${token}`);
  } else if (user !== "") {
    metadata.set("authorization", `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`);
  }
  return metadata;
}

// For how long a queue may be locked by what was its consumer's own connection: the cluster takes a minute to give up one of a
// node that is silent.
const lockedForMs = 120_000;

/** The pauses between attempts. */
class Attempts {
  private failed = 0;
  private hadSucceeded = false;
  /** Of performance.now; undefined: not since it succeeded. */
  private lockedSince: number | undefined;

  constructor(
    private readonly nodes: number,
    private readonly delay: { least: number; most: number },
  ) {}

  succeeded(): void {
    this.failed = 0;
    this.hadSucceeded = true;
    this.lockedSince = undefined;
  }

  /** Something else is in the way: while the cluster cannot decide anything, no lock passes. */
  notLocked(): void {
    this.lockedSince = undefined;
  }

  /** Tells whether a lock may be one of the program's own, and not be given up yet; first is called with the first of several. */
  mayBeLocked(first: () => void): boolean {
    if (!this.hadSucceeded) {
      return false;
    }
    if (this.lockedSince === undefined) {
      this.lockedSince = performance.now();
      first();
    }
    return performance.now() - this.lockedSince < lockedForMs;
  }

  /** Pauses, longer with each failure in a row once every node had its turn. */
  async wait(signal: AbortSignal): Promise<void> {
    const rounds = ++this.failed - this.nodes;
    if (rounds >= 0) {
      const delay = Math.min(this.delay.most, this.delay.least * 2 ** Math.min(rounds, 16));
      await sleep(delay * (0.5 + Math.random() / 2), signal);
    }
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const over = onAbort(signal, () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
    const timer = setTimeout(() => {
      over();
      resolve();
    }, ms);
  });
}
