import type { Core } from "./client.js";
import { fromFields } from "./fields.js";
import { fromWire, type ReceivedMessage } from "./message.js";
import type { Binding, Exchange, Queue } from "./topology.js";
import * as wire from "./wire.js";

/** A queue with its counts. */
export interface QueueStatus extends Required<Queue> {
  exclusive: boolean;
  /** The number of the Raft group that holds it. */
  shard: number;
  /** Undefined: its leader did not answer in time. */
  counts: { ready: number; /** Of the ready messages, with their properties. */ readyBytes: number; unsettled: number; consumers: number } | undefined;
}

export interface PeekOptions {
  /** How many ready messages to pass over; default 0. */
  skip?: number;
  /** How many at most, up to 100; default 1. */
  most?: number;
  /** Bodies are cut after so many bytes; default: not at all. */
  maxBodyBytes?: number;
}

/** A message that stays in its queue. */
export interface PeekedMessage extends ReceivedMessage {
  redelivered: boolean;
  /** Of the whole body. */
  bodyBytes: number;
}

/** What a node knows of its cluster. */
export interface Status {
  node: string;
  version: string;
  clusterId: string;
  /** The node is not cut off. */
  current: boolean;
  nodes: { name: string; number: number; version: string; startedAt: Date }[];
}

export async function* queues(core: Core, signal: AbortSignal | undefined): AsyncGenerator<QueueStatus, void, void> {
  for await (const q of pages(core, "queues", wire.listQueues, {}, signal)) {
    const n = q.counts;
    yield {
      name: q.name,
      durable: q.durable,
      autoDelete: q.autoDelete,
      exclusive: q.exclusive,
      arguments: fromFields(q.arguments),
      shard: q.shard,
      counts: n ? { ready: Number(n.ready), readyBytes: Number(n.readyBytes), unsettled: Number(n.unsettled), consumers: n.consumers } : undefined,
    };
  }
}

export async function* exchanges(core: Core, signal: AbortSignal | undefined): AsyncGenerator<Required<Exchange>, void, void> {
  for await (const x of pages(core, "exchanges", wire.listExchanges, {}, signal)) {
    yield { name: x.name, type: x.type, durable: x.durable, autoDelete: x.autoDelete, internal: x.internal, arguments: fromFields(x.arguments) };
  }
}

export async function* bindings(core: Core, source: string, destination: string, signal: AbortSignal | undefined): AsyncGenerator<Required<Binding>, void, void> {
  for await (const b of pages(core, "bindings", wire.listBindings, { source, destination }, signal)) {
    yield {
      source: b.source,
      destination: b.destination,
      toExchange: b.destinationType === "DESTINATION_TYPE_EXCHANGE",
      routingKey: b.routingKey,
      arguments: fromFields(b.arguments),
    };
  }
}

/** Yields the elements of a list that comes in pages. */
async function* pages<K extends string, E, Q>(
  core: Core,
  elements: K,
  method: wire.Method<Q & { pageToken: string }, wire.Page<K, E>>,
  request: Q,
  signal: AbortSignal | undefined,
): AsyncGenerator<E, void, void> {
  let pageToken = "";
  do {
    const page = await core.call((node, s) => node.unary(method, { ...request, pageToken }, s), signal);
    yield* page[elements];
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}

export async function purgeQueue(core: Core, name: string, signal: AbortSignal | undefined): Promise<number> {
  const response = await core.call((node, s) => node.unary(wire.purgeQueue, { name }, s), signal);
  return Number(response.messages);
}

export async function peek(core: Core, queue: string, options: PeekOptions, signal: AbortSignal | undefined): Promise<PeekedMessage[]> {
  const request = { name: queue, skip: options.skip ?? 0, maxMessages: options.most ?? 1, maxBodyBytes: options.maxBodyBytes ?? 0 };
  const response = await core.call((node, s) => node.unary(wire.peekQueue, request, s), signal);
  return response.messages.map((m) => ({ ...fromWire(m.message), redelivered: m.redelivered, bodyBytes: Number(m.bodyBytes) }));
}

export async function status(core: Core, signal: AbortSignal | undefined): Promise<Status> {
  const response = await core.call((node, s) => node.unary(wire.getStatus, {}, s), signal);
  return {
    node: response.node,
    version: response.version,
    clusterId: response.clusterId,
    current: response.current,
    nodes: response.nodes.map((n) => ({ name: n.name, number: n.number, version: n.version, startedAt: new Date(Number(n.startedAtMillis)) })),
  };
}
