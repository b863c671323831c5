import { checkText, fromFields, sizeOfFields, toFields, toSeconds, type Table } from "./fields.js";
import type * as wire from "./wire.js";

/** What is published. Fields that are left out are absent properties. */
export interface Message {
  /** Left out or empty: the default exchange, where the routing key is the queue's name. */
  exchange?: string;
  routingKey?: string;
  /** A text is sent as UTF-8. */
  body?: Uint8Array | string;
  headers?: Table;
  contentType?: string;
  contentEncoding?: string;
  /** Asks for delivery mode 1. Replicated queues keep such messages like any other. */
  transient?: boolean;
  /** 0 to 255. */
  priority?: number;
  correlationId?: string;
  replyTo?: string;
  /** How long the message may wait in a queue, in milliseconds; left out or 0: for ever. */
  expirationMs?: number;
  messageId?: string;
  /** To the second. */
  timestamp?: Date;
  type?: string;
  /** Checked by the broker. */
  userId?: string;
  appId?: string;
  clusterId?: string;
  /**
   * The headers and properties as AMQP encodes them; received when the fields above cannot say all. If it is published, the
   * others do not count, so that a message that is passed on stays what it was: leave it out to change one of them.
   */
  amqpEncoded?: Uint8Array;
}

/** What is delivered. */
export interface ReceivedMessage extends Omit<Message, "body" | "headers"> {
  exchange: string;
  routingKey: string;
  body: Buffer;
  headers: Table;
  transient: boolean;
}

// Properties that are texts as they are.
const texts = ["contentType", "contentEncoding", "correlationId", "replyTo", "messageId", "type", "userId", "appId", "clusterId"] as const;

// More than what a message takes beside its body, properties that are texts, and headers, in bytes; and what such a text does.
const messageOverhead = 64;
const textOverhead = 6;

const persistent = 2;
const transient = 1;

/** Makes the message of the API; throws a TypeError or RangeError for what cannot be sent. */
export function toWire(m: Message): wire.Message {
  for (const name of ["exchange", "routingKey", ...texts] as const) {
    checkText(m[name], name);
  }
  const properties: wire.Properties = {
    headers: toFields(m.headers),
    deliveryMode: m.transient ? transient : persistent,
    contentType: text(m.contentType),
    contentEncoding: text(m.contentEncoding),
    correlationId: text(m.correlationId),
    replyTo: text(m.replyTo),
    messageId: text(m.messageId),
    type: text(m.type),
    userId: text(m.userId),
    appId: text(m.appId),
    clusterId: text(m.clusterId),
    priority: m.priority,
  };
  if (m.amqpEncoded) {
    properties.amqpEncoded = toBuffer(m.amqpEncoded);
  }
  if (m.expirationMs) {
    properties.expiration = Math.max(1, Math.floor(m.expirationMs)).toString();
  }
  if (m.timestamp) {
    properties.timestampSeconds = toSeconds(m.timestamp, "timestamp");
  }
  return { exchange: m.exchange ?? "", routingKey: m.routingKey ?? "", properties, body: toBuffer(m.body) };
}

/** Returns a bound for the bytes that a message takes in a request. */
export function sizeOf(m: wire.Message): number {
  let bytes = messageOverhead + m.body.length + Buffer.byteLength(m.exchange) + Buffer.byteLength(m.routingKey);
  const p = m.properties ?? {};
  for (const name of [...texts, "expiration"] as const) {
    bytes += p[name] === undefined ? 0 : textOverhead + Buffer.byteLength(p[name]);
  }
  return bytes + (p.amqpEncoded ? textOverhead + p.amqpEncoded.length : 0) + sizeOfFields(p.headers);
}

function text(value: string | undefined): string | undefined {
  return value === "" ? undefined : value;
}

function toBuffer(body: Uint8Array | string | undefined): Buffer {
  if (body === undefined || typeof body === "string") {
    checkText(body, "body");
    return Buffer.from(body ?? "");
  }
  return Buffer.from(body.buffer, body.byteOffset, body.byteLength);
}

/** Reads a message of the API. */
export function fromWire(m: wire.Message): ReceivedMessage {
  const p = m.properties ?? {};
  const received: ReceivedMessage = {
    exchange: m.exchange,
    routingKey: m.routingKey,
    body: m.body,
    headers: fromFields(p.headers),
    transient: p.deliveryMode !== persistent,
  };
  for (const name of [...texts, "priority"] as const) {
    if (p[name] !== undefined) {
      Object.assign(received, { [name]: p[name] });
    }
  }
  if (p.amqpEncoded && p.amqpEncoded.length > 0) {
    received.amqpEncoded = p.amqpEncoded;
  }
  if (p.expiration !== undefined && /^[0-9]+$/.test(p.expiration)) {
    received.expirationMs = Number(p.expiration);
  }
  if (p.timestampSeconds !== undefined) {
    received.timestamp = new Date(Number(p.timestampSeconds) * 1000);
  }
  return received;
}
