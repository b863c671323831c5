import { status, type ServiceError, type StatusObject } from "@grpc/grpc-js";

/** What sort of refusal an error is: the names of the API's ErrorReason. */
export type Reason =
  | "INTERNAL"
  | "NOT_FOUND"
  | "ACCESS_REFUSED"
  | "RESOURCE_LOCKED"
  | "PRECONDITION_FAILED"
  | "NOT_ALLOWED"
  | "NOT_IMPLEMENTED"
  | "RESOURCE_ERROR"
  | "UNAVAILABLE"
  | "ALREADY_EXISTS"
  | "LOGIN_REFUSED"
  | "INVALID_ARGUMENT"
  | "QUEUE_FULL"
  | "REFUSED"
  | "CLOSED"
  | "DELIVERY_TIMEOUT";

/** The base of this package's errors. */
export class WarrenError extends Error {
  override readonly name: string = "WarrenError";
}

/** A refusal of the broker that another attempt cannot mend. */
export class BrokerError extends WarrenError {
  override readonly name = "BrokerError";
  /** The gRPC status code, such as `status.NOT_FOUND`. */
  readonly code: status;
  /** Undefined: the broker said none. */
  readonly reason: Reason | undefined;

  constructor(code: status, reason: Reason | undefined, text: string, options?: ErrorOptions) {
    super(text, options);
    this.code = code;
    this.reason = reason;
  }
}

/** A delivery can be settled once, and not be extended afterwards. */
export class SettledError extends WarrenError {
  override readonly name = "SettledError";
  constructor() {
    super("the delivery is settled already");
  }
}

/** The outcome of a message for which no queue is bound: it is nowhere. */
export class UnroutableError extends WarrenError {
  override readonly name = "UnroutableError";
  constructor() {
    super("no queue is bound for the message");
  }
}

/** The outcome of a message that the broker did not take, or that a queue with a limit refused. */
export class RejectedError extends WarrenError {
  override readonly name = "RejectedError";
  readonly reason: Reason;
  /** What the broker says of it, for people. */
  readonly text: string;

  constructor(reason: Reason, text: string) {
    super(`message rejected: ${text}`);
    this.reason = reason;
    this.text = text;
  }
}

/** It is not known whether the message was stored: the publisher ended, or the caller's signal aborted; see `cause`. */
export class OutcomeUnknownError extends WarrenError {
  override readonly name = "OutcomeUnknownError";
  constructor(cause: unknown) {
    super(`the message's outcome is not known: ${textOf(cause)}`, { cause });
  }
}

/** The error of everything that is used after its close, or its client's. */
export class ClosedError extends WarrenError {
  override readonly name = "ClosedError";
  constructor() {
    super("closed");
  }
}

/** Asks for another stream although nothing is wrong with the node. */
export class AgainError extends WarrenError {
  override readonly name = "AgainError";
  constructor() {
    super("the stream ended");
  }
}

/** The text of whatever was thrown. */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Prepends what was tried, and leaves code and reason. */
export function during(what: string, error: unknown): unknown {
  if (error instanceof BrokerError) {
    return new BrokerError(error.code, error.reason, `${what}: ${error.message}`, { cause: error.cause });
  }
  return error;
}

/** Turns the error of a call into a BrokerError; others stay themselves. */
export function fromStatus(error: unknown): unknown {
  if (!isServiceError(error)) {
    return error;
  }
  return new BrokerError(error.code, reasonOf(error), error.details, { cause: error });
}

/** Tells whether a stream ended because a delivery was not settled in time. */
export function isDeliveryTimeout(error: unknown): boolean {
  return isServiceError(error) && reasonOf(error) === "DELIVERY_TIMEOUT";
}

/** Tells whether gRPC itself, and not the broker, refused a request for its size. */
export function isTooLarge(error: unknown): error is ServiceError {
  return isServiceError(error) && error.code === status.RESOURCE_EXHAUSTED && reasonOf(error) === undefined;
}

/** Tells whether another connection has the queue for itself. */
export function isLocked(error: unknown): boolean {
  if (!isServiceError(error)) {
    return false;
  }
  // Nodes of before said ACCESS_REFUSED of an exclusive consumer, as AMQP does.
  const reason = reasonOf(error);
  return reason === "RESOURCE_LOCKED" || (reason === "ACCESS_REFUSED" && error.details.endsWith(" in exclusive use"));
}

/** Tells whether another attempt, on another node, may succeed. */
export function isTransient(error: unknown): boolean {
  if (error instanceof AgainError) {
    return true;
  }
  if (!isServiceError(error)) {
    return false;
  }
  switch (error.code) {
    case status.UNAVAILABLE:
    case status.CANCELLED:
    case status.ABORTED:
    case status.DEADLINE_EXCEEDED:
      return true;
    case status.INTERNAL:
      // What the transport says of a connection that broke; the broker's own faults have a reason.
      return reasonOf(error) === undefined && error.details.startsWith("Received RST_STREAM");
    default:
      return false;
  }
}

/** An error as the transport makes it, to be judged like one. */
export function unavailable(text: string): Error & StatusObject {
  const metadata = undefined as unknown as StatusObject["metadata"];
  return Object.assign(new Error(text), { code: status.UNAVAILABLE, details: text, metadata });
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && typeof (error as ServiceError).code === "number" && typeof (error as ServiceError).details === "string";
}

// google.rpc.Status has its details in field 3, each an Any with its value in field 2; that of a google.rpc.ErrorInfo has
// the reason in field 1.
const detailsField = 3;
const typeField = 1;
const valueField = 2;
const reasonField = 1;
const errorInfo = "type.googleapis.com/google.rpc.ErrorInfo";

function reasonOf(error: ServiceError): Reason | undefined {
  for (const raw of error.metadata?.get("grpc-status-details-bin") ?? []) {
    for (const detail of fields(Buffer.from(raw), detailsField)) {
      if (fields(detail, typeField)[0]?.toString() === errorInfo) {
        return fields(fields(detail, valueField)[0] ?? Buffer.alloc(0), reasonField)[0]?.toString() as Reason | undefined;
      }
    }
  }
  return undefined;
}

const wireVarint = 0;
const wireFixed64 = 1;
const wireBytes = 2;
const wireFixed32 = 5;

/** Returns the texts, bytes or messages of one field of an encoded message; what is malformed ends it. */
export function fields(message: Buffer, wanted: number): Buffer[] {
  const found: Buffer[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; at < message.length; scale *= 128) {
      const octet = message[at++]!;
      value += (octet & 127) * scale;
      if (octet < 128) {
        break;
      }
    }
    return value;
  };
  while (at < message.length) {
    const key = varint();
    switch (key % 8) {
      case wireVarint:
        varint();
        break;
      case wireFixed64:
        at += 8;
        break;
      case wireFixed32:
        at += 4;
        break;
      case wireBytes: {
        const length = varint();
        if (at + length > message.length) {
          return found;
        }
        if (Math.floor(key / 8) === wanted) {
          found.push(message.subarray(at, at + length));
        }
        at += length;
        break;
      }
      default:
        return found;
    }
  }
  return found;
}
