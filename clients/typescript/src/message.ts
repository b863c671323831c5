import { fromFields, toFields, toSeconds, type Table } from "./fields.js";
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
}

/** What is delivered. */
export interface ReceivedMessage extends Omit<Message, "body" | "headers"> {
  exchange: string;
  routingKey: string;
  body: Buffer;
  headers: Table;
  transient: boolean;
}

const persistent = 2;
const transient = 1;

/** Makes the message of the API; throws a TypeError or RangeError for a header that cannot be sent. */
export function toWire(m: Message): wire.Message {
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
  };
  if (m.priority) {
    properties.priority = m.priority;
  }
  if (m.expirationMs) {
    properties.expiration = Math.max(1, Math.floor(m.expirationMs)).toString();
  }
  if (m.timestamp) {
    properties.timestampSeconds = toSeconds(m.timestamp, "timestamp");
  }
  return { exchange: m.exchange ?? "", routingKey: m.routingKey ?? "", properties, body: toBuffer(m.body) };
}

function text(value: string | undefined): string | undefined {
  return value === "" ? undefined : value;
}

function toBuffer(body: Uint8Array | string | undefined): Buffer {
  if (body === undefined || typeof body === "string") {
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
  for (const name of ["contentType", "contentEncoding", "correlationId", "replyTo", "messageId", "type", "userId", "appId", "priority"] as const) {
    if (p[name] !== undefined) {
      Object.assign(received, { [name]: p[name] });
    }
  }
  if (p.expiration !== undefined && /^[0-9]+$/.test(p.expiration)) {
    received.expirationMs = Number(p.expiration);
  }
  if (p.timestampSeconds !== undefined) {
    received.timestamp = new Date(Number(p.timestampSeconds) * 1000);
  }
  return received;
}
