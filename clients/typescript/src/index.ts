/**
 * The TypeScript SDK of Warren's gRPC API. A Client knows the addresses of several nodes and moves on to another when one
 * fails: publishers publish again what is not confirmed, and nothing is stored twice; consumers go on; what was declared
 * is declared again. A program sees a pause and nothing else.
 */
export { InterceptingCall, status, type Interceptor } from "@grpc/grpc-js";
export type { PeekedMessage, PeekOptions, QueueStatus, Status } from "./admin.js";
export { Client, type CallOptions, type ClientOptions, type HandleOptions, type Handler, type Logger } from "./client.js";
export type { Consumer, ConsumeOptions, Delivery } from "./consumer.js";
export { BrokerError, ClosedError, OutcomeUnknownError, RejectedError, SettledError, UnroutableError, WarrenError, type Reason } from "./errors.js";
export { Decimal, Octets, Typed, type NumberType, type Table, type Value } from "./fields.js";
export type { Message, ReceivedMessage } from "./message.js";
export type { TlsOptions } from "./node.js";
export type { Outcome, Publisher, PublisherOptions } from "./publisher.js";
export type { Binding, DeleteOptions, Exchange, Queue, QueueInfo } from "./topology.js";
