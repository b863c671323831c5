// The messages of the API as proto-loader makes and takes them: 64-bit integers are decimal texts, enumerations are names.
// It reads the .proto files themselves, which say what the fields mean.
import { fileURLToPath } from "node:url";

import { loadSync, type MethodDefinition, type ServiceDefinition } from "@grpc/proto-loader";

export interface FieldValue {
  kind?: keyof FieldValue;
  boolValue?: boolean;
  int64Value?: string;
  stringValue?: string;
  doubleValue?: number;
  bytesValue?: Buffer;
  timestampValue?: string;
  arrayValue?: { values: FieldValue[] };
  tableValue?: { fields: Fields };
  int32Value?: number;
  int16Value?: number;
  int8Value?: number;
  uint32Value?: number;
  uint16Value?: number;
  uint8Value?: number;
  floatValue?: number;
  decimalValue?: { scale: number; unscaled: number };
  octetsValue?: Buffer;
}

export type Fields = Record<string, FieldValue>;

export interface Properties {
  contentType?: string;
  contentEncoding?: string;
  headers?: Fields;
  deliveryMode?: number;
  priority?: number;
  correlationId?: string;
  replyTo?: string;
  expiration?: string;
  messageId?: string;
  timestampSeconds?: string;
  type?: string;
  userId?: string;
  appId?: string;
  clusterId?: string;
  amqpEncoded?: Buffer;
}

export interface Message {
  exchange: string;
  routingKey: string;
  properties?: Properties | null;
  body: Buffer;
}

export interface PublishRequest {
  start?: { producerId: string };
  batch?: { firstSequence: string; messages: Message[]; lowestUnconfirmed: string };
}

export interface Confirm {
  firstSequence: string;
  lastSequence: string;
  outcome: "OUTCOME_UNSPECIFIED" | "OUTCOME_CONFIRMED" | "OUTCOME_UNROUTABLE" | "OUTCOME_REJECTED";
  reason: string;
  detail: string;
}

export interface PublishResponse {
  confirms?: { confirms: Confirm[] };
  blocked?: { reason: string };
}

export type Settlement = "SETTLEMENT_ACK" | "SETTLEMENT_REQUEUE" | "SETTLEMENT_REQUEUE_FAILED" | "SETTLEMENT_DISCARD";

export interface Settle {
  deliveryTag: string;
  multiple?: boolean;
  settlement: Settlement;
  delayMillis?: string;
}

export interface ExtendLeases {
  deliveryTags: string[];
}

export interface ConsumeStart {
  queue: string;
  temporary?: { arguments?: Fields; bindings: Binding[] };
  credit: number;
  autoSettle?: boolean;
  exclusive?: boolean;
  priority?: number;
  consumerTag?: string;
}

export interface ConsumeRequest {
  start?: ConsumeStart;
  settles?: { settles: Settle[] };
  extendLeases?: ExtendLeases;
}

export interface Delivery {
  deliveryTag: string;
  redelivered: boolean;
  message: Message;
}

export interface ConsumeResponse {
  started?: { queue: string; consumerTag: string };
  deliveries?: { deliveries: Delivery[] };
  cancelled?: object;
}

export interface GetRequest {
  fetch?: { queue: string; autoSettle: boolean };
  settle?: Settle;
  extendLeases?: ExtendLeases;
}

export interface GetResponse {
  delivery?: Delivery | null;
  messagesLeft: string;
}

export interface Binding {
  source: string;
  destination: string;
  destinationType: "DESTINATION_TYPE_UNSPECIFIED" | "DESTINATION_TYPE_QUEUE" | "DESTINATION_TYPE_EXCHANGE";
  routingKey: string;
  arguments?: Fields;
}

export interface DeclareQueueRequest {
  name: string;
  passive?: boolean;
  durable?: boolean;
  autoDelete?: boolean;
  arguments?: Fields;
}

export interface DeclareQueueResponse {
  name: string;
  messages: string;
  consumers: number;
}

export interface DeclareExchangeRequest {
  name: string;
  type: string;
  durable?: boolean;
  autoDelete?: boolean;
  internal?: boolean;
  arguments?: Fields;
}

export interface Queue {
  name: string;
  durable: boolean;
  autoDelete: boolean;
  exclusive: boolean;
  arguments: Fields;
  shard: number;
  counts?: { ready: string; readyBytes: string; unsettled: string; consumers: number } | null;
}

export interface PeekedMessage {
  message: Message;
  bodyBytes: string;
  redelivered: boolean;
}

export interface StatusResponse {
  node: string;
  version: string;
  clusterId: string;
  nodes: { name: string; number: number; version: string; startedAtMillis: string }[];
  current: boolean;
}

interface PageRequest {
  pageToken: string;
}

/** A page of a list, whose elements are in the field that is named like them. */
export type Page<K extends string, E> = Record<K, E[]> & { nextPageToken: string };

/** A method of the API: what it takes and gives, and how that is encoded. */
export interface Method<Q, R> {
  path: string;
  encode: (request: Q) => Buffer;
  decode: (response: Buffer) => R;
}

const directory = fileURLToPath(new URL("proto/", import.meta.url));
const loaded = loadSync(
  ["publishing", "consuming", "topology", "admin"].map((name) => `broker/v1/${name}.proto`),
  { includeDirs: [directory], longs: String, enums: String, defaults: true, oneofs: true },
);

function method<Q, R>(service: string, name: string): Method<Q, R> {
  const definition = (loaded[`warren.broker.v1.${service}Service`] as ServiceDefinition)[name] as MethodDefinition<object, object>;
  return { path: definition.path, encode: definition.requestSerialize as (request: Q) => Buffer, decode: definition.responseDeserialize as (response: Buffer) => R };
}

export const publish = method<PublishRequest, PublishResponse>("Publishing", "Publish");
export const consume = method<ConsumeRequest, ConsumeResponse>("Consuming", "Consume");
export const get = method<GetRequest, GetResponse>("Consuming", "Get");
export const declareQueue = method<DeclareQueueRequest, DeclareQueueResponse>("Topology", "DeclareQueue");
export const deleteQueue = method<{ name: string; ifUnused: boolean; ifEmpty: boolean }, { messages: string }>("Topology", "DeleteQueue");
export const declareExchange = method<DeclareExchangeRequest, object>("Topology", "DeclareExchange");
export const deleteExchange = method<{ name: string; ifUnused: boolean }, object>("Topology", "DeleteExchange");
export const bind = method<{ binding: Binding }, object>("Topology", "Bind");
export const unbind = method<{ binding: Binding }, object>("Topology", "Unbind");
export const listQueues = method<PageRequest, Page<"queues", Queue>>("Admin", "ListQueues");
export const listExchanges = method<PageRequest, Page<"exchanges", Required<DeclareExchangeRequest>>>("Admin", "ListExchanges");
export const listBindings = method<PageRequest & { source: string; destination: string }, Page<"bindings", Binding>>("Admin", "ListBindings");
export const purgeQueue = method<{ name: string }, { messages: string }>("Admin", "PurgeQueue");
export const peekQueue = method<{ name: string; maxMessages: number; skip: number; maxBodyBytes: number }, { messages: PeekedMessage[] }>("Admin", "PeekQueue");
export const getStatus = method<object, StatusResponse>("Admin", "GetStatus");
