import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { status } from "@grpc/grpc-js";

import { BrokerError, Client, ClosedError, OutcomeUnknownError, RejectedError, UnroutableError, type ClientOptions } from "@warrenmq/client";
import { publish, type PublishRequest, type PublishResponse } from "../dist/wire.js";
import { confirmed, FakeBroker, limit, type Served } from "./fake.js";

async function start(t: TestContext, brokers = 1, options: ClientOptions = {}) {
  const started: FakeBroker[] = [];
  for (let i = 0; i < brokers; i++) {
    started.push(await FakeBroker.start());
  }
  const client = new Client(started.map((b) => b.address), options);
  t.after(async () => {
    await client.close();
    started.forEach((b) => b.stop());
  });
  return { client, brokers: started, broker: started[0]! };
}

/** Takes requests until so many messages have come, and returns them with their numbers. */
async function batches(stream: Served<PublishRequest, unknown>, count: number) {
  const got: { number: number; text: string; lowest: number }[] = [];
  while (got.length < count) {
    const { batch } = await stream.requests.next();
    batch!.messages.forEach((m, i) => got.push({ number: Number(batch!.firstSequence) + i, text: m.body.toString(), lowest: Number(batch!.lowestUnconfirmed) }));
  }
  return got;
}

test("messages of one turn go in one batch, with numbers from 1 and a producer's name", async (t) => {
  const { client, broker } = await start(t, 1, { user: "u", password: "p", vhost: "v" });
  const publisher = client.publisher();
  const outcomes = Promise.all(["a", "b", "c"].map((body) => publisher.publish({ routingKey: "q", body })));
  const stream = await broker.publishers.next();
  assert.deepEqual(stream.metadata.get("authorization"), [`Basic ${Buffer.from("u:p").toString("base64")}`]);
  assert.deepEqual(stream.metadata.get("warren-vhost"), ["v"]);
  const { start: first } = await stream.requests.next();
  assert.match(first!.producerId, /^[0-9a-f-]{36}$/);
  const { batch } = await stream.requests.next();
  assert.equal(batch!.messages.length, 3);
  assert.deepEqual([batch!.firstSequence, batch!.lowestUnconfirmed], ["1", "1"]);
  stream.send(confirmed(1, 3));
  await outcomes;
});

test("each message has its own outcome", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const outcomes = Promise.allSettled([1, 2, 3].map(() => publisher.publish({ routingKey: "q" })));
  const stream = await broker.publishers.next();
  stream.send({
    confirms: {
      confirms: [
        { firstSequence: "3", lastSequence: "3", outcome: "OUTCOME_REJECTED", reason: "ERROR_REASON_QUEUE_FULL", detail: "a queue is full" },
        { firstSequence: "2", lastSequence: "2", outcome: "OUTCOME_UNROUTABLE", reason: "ERROR_REASON_UNSPECIFIED", detail: "" },
      ],
    },
  });
  stream.send(confirmed(1, 1));
  const [first, second, third] = (await outcomes).map((o) => (o.status === "rejected" ? (o.reason as Error) : undefined));
  assert.equal(first, undefined);
  assert(second instanceof UnroutableError);
  assert(third instanceof RejectedError);
  assert.deepEqual([third.reason, third.text], ["QUEUE_FULL", "a queue is full"]);
});

test("what is not confirmed is published again by another node, with its number", async (t) => {
  const { client, brokers } = await start(t, 2);
  const publisher = client.publisher();
  const outcomes = ["a", "b", "c", "d"].map((body) => publisher.publish({ routingKey: "q", body }));
  const before = await brokers[0]!.publishers.next();
  const { start: producer } = await before.requests.next();
  await batches(before, 4);
  before.send(confirmed(1, 1));
  before.send(confirmed(3, 3)); // out of turn
  await Promise.all([outcomes[0], outcomes[2]]);
  brokers[0]!.stop();

  const after = await brokers[1]!.publishers.next();
  assert.deepEqual((await after.requests.next()).start, producer);
  assert.deepEqual(await batches(after, 2), [
    { number: 2, text: "b", lowest: 2 },
    { number: 4, text: "d", lowest: 2 },
  ]);
  after.send(confirmed(2, 4));
  await Promise.all(outcomes);
});

test("a stream that ends without an error is opened again", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const outcome = publisher.publish({ routingKey: "q", body: "a" });
  const first = await broker.publishers.next();
  await first.requests.next();
  await batches(first, 1);
  first.end();
  const second = await broker.publishers.next();
  await second.requests.next();
  assert.deepEqual(await batches(second, 1), [{ number: 1, text: "a", lowest: 1 }]);
  second.send(confirmed(1, 1));
  await outcome;
});

test("a node that is away is tried again", async (t) => {
  const { client, broker } = await start(t);
  broker.stop();
  const publisher = client.publisher();
  const outcome = publisher.publish({ routingKey: "q", body: "a" });
  await broker.again();
  const stream = await broker.publishers.next();
  stream.send(confirmed(1, 1));
  await outcome;
});

test("publishing waits while too many are unconfirmed, and keeps its order", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher({ maxUnconfirmed: 3 });
  const taken: number[] = [];
  const all = Promise.all(Array.from({ length: 10 }, (_, i) => publisher.publishAsync({ routingKey: "q", body: `${i}` }).then(() => taken.push(i))));
  const stream = await broker.publishers.next();
  await stream.requests.next();
  assert.deepEqual((await batches(stream, 3)).map((m) => m.text), ["0", "1", "2"]);
  assert.deepEqual(taken, [0, 1, 2]);
  stream.send(confirmed(1, 2));
  assert.deepEqual((await batches(stream, 2)).map((m) => [m.number, m.text, m.lowest]), [
    [4, "3", 3],
    [5, "4", 3],
  ]);
  stream.send(confirmed(3, 5));
  await batches(stream, 3);
  stream.send(confirmed(6, 8));
  await batches(stream, 2);
  stream.send(confirmed(9, 10));
  await all;
  await publisher.flush();
});

test("the window counts bytes as well", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher({ maxUnconfirmedBytes: 1000 });
  await publisher.publishAsync({ routingKey: "q", body: Buffer.alloc(1000) });
  let waited = true;
  const second = publisher.publishAsync({ routingKey: "q", body: "small" }).then(() => (waited = false));
  const stream = await broker.publishers.next();
  await stream.requests.next();
  await batches(stream, 1);
  assert(waited);
  stream.send(confirmed(1, 1));
  await second;
});

test("a wait for room ends with its signal, and the message is not published", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher({ maxUnconfirmed: 1 });
  const first = publisher.publish({ routingKey: "q", body: "first" });
  const controller = new AbortController();
  const second = publisher.publish({ routingKey: "q", body: "second" }, { signal: controller.signal });
  const third = publisher.publish({ routingKey: "q", body: "third" });
  controller.abort(new Error("enough"));
  await assert.rejects(second, /enough/);
  const stream = await broker.publishers.next();
  await stream.requests.next();
  await batches(stream, 1);
  stream.send(confirmed(1, 1));
  await first;
  assert.deepEqual(await batches(stream, 1), [{ number: 2, text: "third", lowest: 2 }]);
  stream.send(confirmed(2, 2));
  await third;
});

test("a wait for an outcome ends with its signal, whenever that aborts", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const unknown = (outcome: Promise<void>) => assert.rejects(outcome, (e) => e instanceof OutcomeUnknownError && /enough/.test(e.message));
  const [later, atOnce] = [new AbortController(), new AbortController()];
  const first = publisher.publish({ routingKey: "q" }, { signal: later.signal });
  await broker.publishers.next();
  later.abort(new Error("enough"));
  await unknown(first);
  const second = publisher.publish({ routingKey: "q" }, { signal: atOnce.signal });
  atOnce.abort(new Error("enough"));
  await unknown(second);
  await assert.rejects(publisher.publish({ routingKey: "q" }, { signal: atOnce.signal }), /^Error: enough$/);
});

test("close waits for what was published, also for what waits for room", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher({ maxUnconfirmed: 1 });
  const outcomes = Promise.all(["a", "b"].map((body) => publisher.publish({ routingKey: "q", body })));
  const closed = publisher.close();
  await assert.rejects(publisher.publish({ routingKey: "q" }), ClosedError);
  const stream = await broker.publishers.next();
  stream.send(confirmed(1, 1));
  await stream.requests.next();
  await batches(stream, 2);
  stream.send(confirmed(2, 2));
  await outcomes;
  await closed;
  await assert.rejects(publisher.publish({ routingKey: "q" }), ClosedError);
});

test("close with a signal leaves the rest unknown", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const outcome = assert.rejects(publisher.publish({ routingKey: "q" }), OutcomeUnknownError);
  await broker.publishers.next();
  await assert.rejects(publisher.close({ signal: AbortSignal.abort(new Error("no time")) }), /no time/);
  await outcome;
});

test("a producer of one's own has numbers beyond 2^53", async (t) => {
  const { client, broker } = await start(t);
  const next = 2n ** 60n + 1n;
  const publisher = client.publisher({ producer: { id: "import-7", next } });
  const outcome = publisher.publish({ routingKey: "q" });
  const stream = await broker.publishers.next();
  assert.equal((await stream.requests.next()).start!.producerId, "import-7");
  assert.equal((await stream.requests.next()).batch!.firstSequence, next.toString());
  stream.send(confirmed(next, next));
  await outcome;
  assert.throws(() => client.publisher({ producer: { id: "x", next: 0 } }), /numbers from 1 on/);
});

test("an error that does not pass ends the publisher and says so", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const first = publisher.publish({ routingKey: "q" });
  const stream = await broker.publishers.next();
  stream.fail(status.PERMISSION_DENIED, "no such vhost", "NOT_ALLOWED");
  await assert.rejects(first, (e) => e instanceof OutcomeUnknownError && /no such vhost/.test(e.message));
  await assert.rejects(publisher.publish({ routingKey: "q" }), (e) => e instanceof BrokerError && e.reason === "NOT_ALLOWED" && e.code === status.PERMISSION_DENIED);
  await assert.rejects(publisher.flush().then(() => publisher.publish({ routingKey: "q" })), BrokerError);
});

test("many messages go in batches of bounded size", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const outcomes = Promise.all(Array.from({ length: 3000 }, (_, i) => publisher.publish({ routingKey: "q", body: `${i}` })));
  const stream = await broker.publishers.next();
  await stream.requests.next();
  let expected = 1;
  while (expected <= 3000) {
    const { batch } = await stream.requests.next();
    assert.equal(Number(batch!.firstSequence), expected);
    assert(batch!.messages.length <= 1024);
    expected += batch!.messages.length;
    stream.send(confirmed(Number(batch!.firstSequence), expected - 1));
  }
  await outcomes;
});

/** Confirms whatever comes on a broker's streams of publishers, and notes the sizes of bodies by their numbers. */
async function confirmAll(broker: FakeBroker, stored: Map<number, number>, requests: PublishRequest[] = []): Promise<never> {
  const serve = async (stream: Served<PublishRequest, PublishResponse>): Promise<never> => {
    for (;;) {
      const request = await stream.requests.next();
      requests.push(request);
      const first = Number(request.batch?.firstSequence);
      request.batch?.messages.forEach((m, i) => stored.set(first + i, m.body.length));
      if (request.batch) {
        stream.send(confirmed(first, first + request.batch.messages.length - 1));
      }
    }
  };
  for (;;) {
    void serve(await broker.publishers.next());
  }
}

test("a message above the node's limit is rejected by itself", async (t) => {
  const { client, brokers } = await start(t, 2);
  const stored = new Map<number, number>();
  void confirmAll(brokers[0]!, stored);
  const sizes = [1, limit + (1 << 20), 2, limit - 100, 1 << 20, limit + (2 << 20), 3];
  const publisher = client.publisher({ maxUnconfirmedBytes: 100 << 20 });
  const outcomes = await Promise.allSettled(sizes.map((size) => publisher.publish({ routingKey: "q", body: Buffer.alloc(size) })));
  const reasons = outcomes.map((o) => (o.status === "rejected" ? (o.reason as RejectedError).reason : undefined));
  assert.deepEqual(reasons, sizes.map((size) => (size > limit ? "PRECONDITION_FAILED" : undefined)));
  const rejected = (outcomes[1] as PromiseRejectedResult).reason;
  assert(rejected instanceof RejectedError && /^Received message larger than max/.test(rejected.text));
  assert.deepEqual(new Map([...stored].sort()), new Map(sizes.map((size, i) => [i + 1, size] as const).filter(([, size]) => size <= limit)));
  assert.equal(brokers[1]!.publishers.length, 0, "nothing is wrong with the node");
});

test("a limit of the broker rejects no message", async (t) => {
  const { client, broker } = await start(t);
  const publisher = client.publisher();
  const outcome = publisher.publish({ routingKey: "q", body: Buffer.alloc(limit - 100) });
  (await broker.publishers.next()).fail(status.RESOURCE_EXHAUSTED, "too many channels", "RESOURCE_ERROR");
  await assert.rejects(outcome, (e) => e instanceof OutcomeUnknownError && e.cause instanceof BrokerError && e.cause.reason === "RESOURCE_ERROR");
});

test("batches and the window are measured with all that is sent", async (t) => {
  const { client, broker } = await start(t);
  const requests: PublishRequest[] = [];
  void confirmAll(broker, new Map(), requests);
  const headers = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`h${i}`, "x".repeat(1024)]));
  const publisher = client.publisher({ maxUnconfirmedBytes: 1 << 20 });
  const outcomes: Promise<void>[] = [];
  for (let i = 0; i < 300; i++) {
    outcomes.push(publisher.publish({ routingKey: "q", headers }));
  }
  await Promise.all(outcomes);
  assert(requests.every((request) => publish.encode(request).length <= 128 << 10));
  let taken = 0;
  const all = Array.from({ length: 100 }, () => publisher.publishAsync({ routingKey: "q", headers }).then(() => taken++));
  await Promise.resolve(); // what there is room for is taken at once
  assert(taken > 0 && taken < 30, `${taken} taken`);
  await Promise.all(all);
  await publisher.flush();
});

test("a message that cannot be sent is refused at once", async (t) => {
  const { client, broker } = await start(t);
  void confirmAll(broker, new Map());
  const publisher = client.publisher();
  const good = publisher.publish({ routingKey: "q" });
  for (const bad of [{ routingKey: "\ud800" }, { exchange: "\udc00" }, { correlationId: "\ud800" }, { body: "\ud800" }, { headers: { h: "\ud800" } }]) {
    await assert.rejects(publisher.publish(bad), TypeError);
  }
  await good;
  await publisher.publish({ routingKey: "q", body: "\ud83d\ude00" });
  assert.throws(() => client.publisher({ producer: { id: "\ud800", next: 1 } }), TypeError);
});

test("a blocked node is told of", async (t) => {
  const told: string[] = [];
  const logger = { info: (m: string) => told.push(m), warn: (m: string) => told.push(m) };
  const { client, broker } = await start(t, 1, { logger });
  const publisher = client.publisher();
  const outcome = publisher.publish({ routingKey: "q" });
  const stream = await broker.publishers.next();
  stream.send({ blocked: { reason: "low on memory" } });
  stream.send({ blocked: { reason: "" } });
  stream.send(confirmed(1, 1));
  await outcome;
  assert.deepEqual(told, ["publishers are blocked", "publishers are not blocked any more"]);
});
