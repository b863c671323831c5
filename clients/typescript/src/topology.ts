import type { Core } from "./client.js";
import { during } from "./errors.js";
import { toFields, type Table } from "./fields.js";
import * as wire from "./wire.js";

/** A queue. What is left out is false or empty. */
export interface Queue {
  /** Left out or empty: the broker makes one. */
  name?: string;
  /** It survives a restart of the whole cluster. */
  durable?: boolean;
  /** It goes with its last consumer. */
  autoDelete?: boolean;
  arguments?: Table;
}

/** A queue as it was when it was declared. */
export interface QueueInfo {
  name: string;
  /** Ready messages. */
  messages: number;
  consumers: number;
}

export interface Exchange {
  name: string;
  type: "direct" | "fanout" | "topic" | "headers" | (string & {});
  /** It survives a restart of the whole cluster. */
  durable?: boolean;
  /** It goes with its last binding. */
  autoDelete?: boolean;
  /** Clients cannot publish to it. */
  internal?: boolean;
  arguments?: Table;
}

/** A way from an exchange to a queue or, with toExchange, another exchange. */
export interface Binding {
  source: string;
  destination: string;
  toExchange?: boolean;
  routingKey?: string;
  /** Of a headers exchange. */
  arguments?: Table;
}

/** Conditions for a deletion. */
export interface DeleteOptions {
  /** Only without consumers, or without bindings. */
  ifUnused?: boolean;
  /** Only without ready messages. */
  ifEmpty?: boolean;
}

/** Makes and removes queues, exchanges and bindings, and has the client remember them. */
export class Topology {
  constructor(private readonly core: Core) {}

  async declareQueue(q: Queue, signal: AbortSignal | undefined): Promise<QueueInfo> {
    const request = { name: q.name ?? "", durable: q.durable, autoDelete: q.autoDelete, arguments: toFields(q.arguments) };
    const info = await this.make(`declare queue "${request.name}"`, wire.declareQueue, request, signal);
    if (!info.name.startsWith("amq.")) {
      // Nobody may declare such a name.
      this.remember(queueKey(info.name), wire.declareQueue, request);
    }
    return toInfo(info);
  }

  async inspectQueue(name: string, signal: AbortSignal | undefined): Promise<QueueInfo> {
    return toInfo(await this.make(`inspect queue "${name}"`, wire.declareQueue, { name, passive: true }, signal));
  }

  async deleteQueue(name: string, options: DeleteOptions, signal: AbortSignal | undefined): Promise<number> {
    const request = { name, ifUnused: options.ifUnused ?? false, ifEmpty: options.ifEmpty ?? false };
    const response = await this.make(`delete queue "${name}"`, wire.deleteQueue, request, signal);
    this.core.forget((key) => key === queueKey(name) || key.endsWith(bindingEnd(name, false)));
    return Number(response.messages);
  }

  async declareExchange(x: Exchange, signal: AbortSignal | undefined): Promise<void> {
    const request = { ...x, arguments: toFields(x.arguments) };
    await this.make(`declare exchange "${x.name}"`, wire.declareExchange, request, signal);
    this.remember(exchangeKey(x.name), wire.declareExchange, request);
  }

  async deleteExchange(name: string, options: DeleteOptions, signal: AbortSignal | undefined): Promise<void> {
    await this.make(`delete exchange "${name}"`, wire.deleteExchange, { name, ifUnused: options.ifUnused ?? false }, signal);
    this.core.forget((key) => key === exchangeKey(name) || key.endsWith(bindingEnd(name, true)) || key.startsWith(bindingStart(name)));
  }

  async bind(b: Binding, signal: AbortSignal | undefined): Promise<void> {
    const request = { binding: bindingToWire(b) };
    await this.make(`bind "${b.destination}" to "${b.source}"`, wire.bind, request, signal);
    this.remember(bindingKey(request.binding), wire.bind, request);
  }

  async unbind(b: Binding, signal: AbortSignal | undefined): Promise<void> {
    const request = { binding: bindingToWire(b) };
    await this.make(`unbind "${b.destination}" from "${b.source}"`, wire.unbind, request, signal);
    this.core.forget((key) => key === bindingKey(request.binding));
  }

  private async make<Q, R>(what: string, method: wire.Method<Q, R>, request: Q, signal: AbortSignal | undefined): Promise<R> {
    try {
      return await this.core.call((node, s) => node.unary(method, request, s), signal);
    } catch (error) {
      throw during(what, error);
    }
  }

  private remember<Q, R>(key: string, method: wire.Method<Q, R>, request: Q): void {
    this.core.remember(key, (node, signal) => node.unary(method, request, signal));
  }
}

/** Makes the binding of the API. */
export function bindingToWire(b: Omit<Binding, "destination"> & { destination?: string }): wire.Binding {
  return {
    source: b.source,
    destination: b.destination ?? "",
    destinationType: b.toExchange ? "DESTINATION_TYPE_EXCHANGE" : "DESTINATION_TYPE_QUEUE",
    routingKey: b.routingKey ?? "",
    arguments: toFields(b.arguments),
  };
}

function toInfo(response: wire.DeclareQueueResponse): QueueInfo {
  return { name: response.name, messages: Number(response.messages), consumers: response.consumers };
}

// Names cannot have a NUL in a key that means something else.
const queueKey = (name: string) => `queue\0${name}`;
const exchangeKey = (name: string) => `exchange\0${name}`;
const bindingStart = (source: string) => `binding\0${source}\0`;
const bindingEnd = (to: string, exchange: boolean) => `\0${exchange}\0${to}`;

function bindingKey(b: wire.Binding): string {
  const fields = Object.entries(b.arguments ?? {}).sort(([a], [c]) => (a < c ? -1 : 1));
  return bindingStart(b.source) + b.routingKey + JSON.stringify(fields) + bindingEnd(b.destination, b.destinationType === "DESTINATION_TYPE_EXCHANGE");
}
