import assert from "node:assert/strict";
import { test } from "node:test";

import { Decimal, Octets, Typed, type Message, type ReceivedMessage, type Table } from "@warrenmq/client";
import { fromFields, toFields } from "../dist/fields.js";
import { fromWire, sizeOf, toWire } from "../dist/message.js";
import { publish, type Fields, type PublishRequest } from "../dist/wire.js";
import { loadSync, type ServiceDefinition } from "@grpc/proto-loader";
import { fileURLToPath } from "node:url";

const directory = fileURLToPath(new URL("../dist/proto/", import.meta.url));
const services = loadSync("broker/v1/publishing.proto", { includeDirs: [directory], longs: String, enums: String, defaults: true, oneofs: true });
const decode = (services["warren.broker.v1.PublishingService"] as ServiceDefinition)["Publish"]!.requestDeserialize;

/** Sends a message through the encoding that it travels in. */
function travelled(message: Message): ReceivedMessage {
  const bytes = publish.encode({ batch: { firstSequence: "1", lowestUnconfirmed: "1", messages: [toWire(message)] } });
  return fromWire((decode(bytes) as PublishRequest).batch!.messages[0]!);
}

/** Sends headers through the encoding that they travel in. */
function travel(table: Table): Fields {
  const message = toWire({ headers: table });
  const bytes = publish.encode({ batch: { firstSequence: "1", lowestUnconfirmed: "1", messages: [message] } });
  return (decode(bytes) as PublishRequest).batch!.messages[0]!.properties!.headers!;
}

test("values come back as they were", () => {
  const table: Table = {
    yes: true,
    no: false,
    text: "grün",
    nothing: null,
    zero: 0,
    small: -5,
    largest: Number.MAX_SAFE_INTEGER,
    beyond: 2n ** 53n,
    most: 2n ** 63n - 1n,
    least: -(2n ** 63n),
    half: 0.5,
    bytes: Buffer.from([0, 255]),
    when: new Date(1_700_000_000_000),
    list: [1, "two", [3n ** 39n], null],
    table: { inner: { deep: 1 } },
    decimal: new Decimal(2, 314),
    ["__proto__"]: "a header",
  };
  assert.deepEqual(fromFields(travel(table)), table);
});

test("a bigint that a number holds comes back as a number", () => {
  assert.deepEqual(fromFields(travel({ n: 5n })), { n: 5 });
});

test("typed numbers have their kinds", () => {
  const fields = travel({
    a: new Typed("int8", -128),
    b: new Typed("int16", -5),
    c: new Typed("int32", 7),
    d: new Typed("uint8", 255),
    e: new Typed("uint16", 65535),
    f: new Typed("uint32", 4294967295),
    g: new Typed("float", 1.5),
    h: new Typed("double", 2),
  });
  const kinds = Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, value.kind]));
  assert.deepEqual(kinds, {
    a: "int8Value",
    b: "int16Value",
    c: "int32Value",
    d: "uint8Value",
    e: "uint16Value",
    f: "uint32Value",
    g: "floatValue",
    h: "doubleValue",
  });
  assert.deepEqual(fromFields(fields), { a: -128, b: -5, c: 7, d: 255, e: 65535, f: 4294967295, g: 1.5, h: 2 });
});

test("a text that is not UTF-8 comes back as it was, and is no byte array", () => {
  const fields = travel({ t: new Octets([65, 255]), list: [new Octets()], bytes: Buffer.from([65, 255]) });
  assert.deepEqual([fields["t"]!.kind, fields["bytes"]!.kind], ["octetsValue", "bytesValue"]);
  assert.deepEqual(fromFields(fields), { t: new Octets([65, 255]), list: [new Octets()], bytes: Buffer.from([65, 255]) });
});

test("what cannot be sent is refused", () => {
  assert.throws(() => toFields({ n: 2 ** 53 }), /n: 9007199254740992 is not exact/);
  assert.throws(() => toFields({ n: 2n ** 63n }), /does not fit into 64 bits/);
  assert.throws(() => toFields({ t: { f: (() => 1) as never } }), /f: a function cannot be sent/);
  assert.throws(() => toFields({ d: new Date(-1000) }), /before 1970/);
  for (const headers of [{ t: "\ud800" }, { t: ["a\udc00b"] }, { t: { "\ud800": 1 } }]) {
    assert.throws(() => toFields(headers), /: a text with half of a surrogate pair cannot be sent/);
  }
  toFields({ t: "\ud83d\ude00" });
  assert.throws(() => toFields({ d: new Date(NaN) }), /before 1970/);
  assert.throws(() => new Typed("int8", 128), /128 is no int8/);
  assert.throws(() => new Typed("uint16", 1.5), /1.5 is no uint16/);
});

test("a message comes back as it was", () => {
  const message = {
    exchange: "x",
    routingKey: "k",
    body: "text",
    headers: { a: 1 },
    contentType: "text/plain",
    contentEncoding: "identity",
    transient: true,
    priority: 9,
    correlationId: "c",
    replyTo: "r",
    expirationMs: 1500,
    messageId: "m",
    timestamp: new Date(1_700_000_000_000),
    type: "t",
    userId: "guest",
    appId: "a",
    clusterId: "cl",
    amqpEncoded: Buffer.from([0x80, 0, 1, 255]),
  };
  assert.deepEqual(travelled(message), { ...message, body: Buffer.from("text") });
});

test("a priority of 0 is not an absent one", () => {
  assert.equal(travelled({ priority: 0 }).priority, 0);
  assert(!("priority" in travelled({})));
});

test("the size of a message is a bound for what is sent, and near", () => {
  const text = "ü".repeat(200);
  const messages: Message[] = [
    {},
    { exchange: text, routingKey: text, body: Buffer.alloc(5000) },
    { contentType: text, contentEncoding: text, correlationId: text, replyTo: text, messageId: text, type: text, userId: text, appId: text },
    { clusterId: text, amqpEncoded: Buffer.alloc(1000), headers: { octets: new Octets(1000) } },
    { priority: 255, expirationMs: 2 ** 52, timestamp: new Date(8.64e15), transient: true, body: text },
    { headers: { [text]: text, list: [text, [text, 1n << 62n], null, new Typed("double", 1)], table: { [text]: { [text]: Buffer.alloc(500) } } } },
    { headers: Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`${i}`, [-(2n ** 63n), new Decimal(255, 4294967295), new Date(8.64e15), true]])) },
  ];
  for (const message of messages) {
    const converted = toWire(message);
    const { length } = publish.encode({ batch: { firstSequence: "1", lowestUnconfirmed: "1", messages: [converted] } });
    assert(sizeOf(converted) >= length, `${sizeOf(converted)} for ${length} bytes of ${Object.keys(message)}`);
    assert(sizeOf(converted) < 5 * length + 100, `${sizeOf(converted)} for ${length} bytes of ${Object.keys(message)}`);
  }
});

test("properties that are left out are absent", () => {
  assert.deepEqual(travelled({ routingKey: "k" }), { exchange: "", routingKey: "k", body: Buffer.alloc(0), headers: {}, transient: false });
});
