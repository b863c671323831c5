import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { status } from "@grpc/grpc-js";

import { BrokerError, Client, type ClientOptions, ClosedError, SettledError } from "@warrenmq/client";
import { delivered, FakeBroker, failure, type Served } from "./fake.js";
import type { ConsumeRequest, ConsumeResponse } from "../dist/wire.js";

async function start(t: TestContext, brokers = 1) {
  const started: FakeBroker[] = [];
  for (let i = 0; i < brokers; i++) {
    started.push(await FakeBroker.start());
  }
  const client = new Client(started.map((b) => b.address));
  t.after(async () => {
    await client.close();
    started.forEach((b) => b.stop());
  });
  return { client, brokers: started, broker: started[0]! };
}

type Stream = Served<ConsumeRequest, ConsumeResponse>;

/** Answers a consumer's start. */
async function begin(broker: FakeBroker, queue = "q"): Promise<{ stream: Stream; start: ConsumeRequest["start"] }> {
  const stream = await broker.consumers.next();
  const { start } = await stream.requests.next();
  stream.send({ started: { queue, consumerTag: "c" } });
  return { stream, start };
}

async function settles(stream: Stream) {
  const { settles } = await stream.requests.next();
  return settles!.settles.map((s) => [Number(s.deliveryTag), s.multiple, s.settlement.replace("SETTLEMENT_", "")]);
}

test("what is settled in one turn is sent together, and what is done from the front on as one", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q", { credit: 10, tag: "mine", priority: -1, exclusive: true });
  const { stream, start: asked } = await begin(broker);
  assert.deepEqual(
    { ...asked },
    { queue: "q", temporary: null, credit: 10, autoSettle: false, exclusive: true, priority: -1, consumerTag: "mine" },
  );
  const consumer = await starting;
  stream.send(delivered(1, "a", "b", "c", "d", "e", "f"));
  const got = [];
  for await (const d of consumer) {
    got.push(d);
    if (got.length === 6) {
      break;
    }
  }
  assert.deepEqual(got.map((d) => d.text()), ["a", "b", "c", "d", "e", "f"]);
  void got[1]!.ack();
  void got[0]!.ack();
  void got[3]!.requeue();
  void got[4]!.discard();
  assert.deepEqual(await settles(stream), [
    [2, true, "ACK"],
    [4, false, "REQUEUE"],
    [5, false, "DISCARD"],
  ]);
  void got[5]!.fail();
  assert.deepEqual(await settles(stream), [[6, false, "REQUEUE_FAILED"]]);
  assert.equal(await got[2]!.ack(), true);
  assert.deepEqual(await settles(stream), [[3, true, "ACK"]]);
  await assert.rejects(got[2]!.ack(), /settled already/);
  await assert.rejects(got[5]!.ack(), /settled already/);
});

test("what is settled is forgotten, also behind what is not", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  stream.send(delivered(1, "held"));
  const held = await consumer.next();
  for (let tag = 2; tag < 200; tag++) {
    stream.send(delivered(tag, "settled"));
    void (await consumer.next()).ack();
    assert.deepEqual(await settles(stream), [[tag, false, "ACK"]]);
  }
  const kept = Object.values((consumer as unknown as { stream: object }).stream).map((value: { size?: number; length?: number }) => value?.size ?? value?.length ?? 0);
  assert(Math.max(...kept) < 10, `${kept}`);
  void held.ack();
  assert.deepEqual(await settles(stream), [[1, true, "ACK"]]);
});

test("delays go with the settlement; what is extended is told of before what is settled", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  stream.send(delivered(1, "a", "b", "c", "d"));
  const [a, b, c, d] = [await consumer.next(), await consumer.next(), await consumer.next(), await consumer.next()];
  const day = 24 * 60 * 60 * 1000;
  for (const delay of [-1, day + 1, NaN]) {
    await assert.rejects(a.requeue(delay), RangeError);
  }
  void b.requeue(0.5);
  void c.fail(day);
  void d.extend();
  void d.extend();
  void a.extend();
  void a.fail();
  assert.deepEqual((await stream.requests.next()).extendLeases!.deliveryTags, ["4", "1"]);
  const { settles: sent } = (await stream.requests.next()).settles!;
  assert.deepEqual(
    sent.map((s) => [s.deliveryTag, s.settlement, s.delayMillis]),
    [
      ["2", "SETTLEMENT_REQUEUE", "1"],
      ["3", "SETTLEMENT_REQUEUE_FAILED", `${day}`],
      ["1", "SETTLEMENT_REQUEUE_FAILED", "0"],
    ],
  );
  await assert.rejects(a.extend(), SettledError);
  assert.equal(await d.extend(), true);
  assert.deepEqual((await stream.requests.next()).extendLeases!.deliveryTags, ["4"]);
  await consumer.close();
  assert.equal(await d.extend(), false);
  assert.equal(stream.requests.length, 0, "what is told of is told of once");
});

test("the token stands for user and password", async (t) => {
  const broker = await FakeBroker.start();
  const login = async (options: ClientOptions) => {
    const client = new Client([broker.address], options);
    const getting = client.get("q", { autoSettle: true });
    const stream = await broker.gets.next();
    stream.send({ messagesLeft: "0" });
    await getting;
    await client.close();
    return stream.metadata.get("authorization");
  };
  t.after(() => broker.stop());
  assert.deepEqual(await login({ token: "a.b.c" }), ["Bearer a.b.c"]);
  assert.deepEqual(await login({ token: "a.b.c", user: "" }), ["Bearer a.b.c"]);
  assert.deepEqual(await login({}), [`Basic ${Buffer.from("guest:guest").toString("base64")}`]);
  assert.deepEqual(await login({ user: "" }), []);
});

test("a lost connection is another stream; what was held comes again", async (t) => {
  const { client, brokers } = await start(t, 2);
  const starting = client.consume("q");
  const { stream } = await begin(brokers[0]!);
  const consumer = await starting;
  stream.send(delivered(1, "held", "buffered"));
  const held = await consumer.next();
  brokers[0]!.stop();
  const { stream: second } = await begin(brokers[1]!, "another");
  second.send(delivered(1, "held again"));
  assert.equal((await consumer.next()).text(), "held again");
  assert.equal(await held.ack(), false);
  assert.equal(consumer.queue, "another");
});

test("a delivery that was not settled in time is another stream of the same node", async (t) => {
  const { client, brokers } = await start(t, 2);
  const starting = client.consume("q");
  const { stream } = await begin(brokers[0]!);
  const consumer = await starting;
  stream.send(delivered(1, "held", "buffered"));
  const held = await consumer.next();
  stream.fail(status.ABORTED, "timed out", "DELIVERY_TIMEOUT");
  const { stream: second } = await begin(brokers[0]!);
  second.send(delivered(1, "held again"));
  const again = await consumer.next();
  assert.equal(again.text(), "held again");
  assert.equal(await held.ack(), false);
  assert.equal(await again.ack(), true);
  assert.deepEqual(await settles(second), [[1, true, "ACK"]]);
});

const locked = [status.FAILED_PRECONDITION, "queue 'q' is locked", "RESOURCE_LOCKED"] as const;

test("a queue that its consumer's connection before still locks is tried again, for two minutes", async (t) => {
  const { client, brokers } = await start(t, 2);
  const starting = client.consume("q", { exclusive: true });
  await begin(brokers[0]!);
  const consumer = await starting;
  const now = t.mock.method(performance, "now", () => 0);
  brokers[0]!.stop();
  const refuse = async (at: number) => {
    const stream = await brokers[1]!.consumers.next(); // what was refused before has been heard of
    now.mock.mockImplementation(() => at);
    stream.fail(...locked);
  };
  for (const at of [0, 60_000, 119_000]) {
    await refuse(at);
  }
  const { stream } = await begin(brokers[1]!);
  stream.send(delivered(1, "a"));
  assert.equal((await consumer.next()).text(), "a");

  stream.fail(...locked); // the time begins anew
  await refuse(238_000);
  await refuse(239_001);
  await assert.rejects(consumer.next(), (e) => e instanceof BrokerError && e.reason === "RESOURCE_LOCKED");
  assert.equal(brokers[0]!.consumers.length, 0);
});

test("a queue that is locked at the start", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  (await broker.consumers.next()).fail(...locked);
  await assert.rejects(starting, (e) => e instanceof BrokerError && e.reason === "RESOURCE_LOCKED");
});

test("a consumer that cannot start says why", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  (await broker.consumers.next()).fail(status.NOT_FOUND, "no queue 'q'", "NOT_FOUND");
  await assert.rejects(starting, (e) => e instanceof BrokerError && e.reason === "NOT_FOUND" && e.message === `consume "q": no queue 'q'`);
  await assert.rejects(client.consume("q", { credit: 0 }), RangeError);
});

test("a wait for the start ends with its signal", async (t) => {
  const { client, broker } = await start(t);
  const controller = new AbortController();
  const starting = client.consume("q", { signal: controller.signal });
  await broker.consumers.next();
  controller.abort(new Error("enough"));
  await assert.rejects(starting, /enough/);
});

test("a consumer that the broker cancels tries again, and ends when its queue is gone", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  const loop = (async () => {
    for await (const d of consumer) {
      assert.fail(d.text());
    }
  })();
  stream.send({ cancelled: {} });
  (await broker.consumers.next()).fail(status.NOT_FOUND, "no queue 'q'", "NOT_FOUND");
  await assert.rejects(loop, BrokerError);
});

test("close sends what is settled, ends loops and waits", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  stream.send(delivered(1, "a"));
  const loop = (async () => {
    for await (const d of consumer) {
      void d.ack();
      void consumer.close();
    }
  })();
  await loop;
  assert.deepEqual(await settles(stream), [[1, true, "ACK"]]);
  await stream.closed;
  await consumer.close();
  await assert.rejects(consumer.next(), ClosedError);
});

test("the client's close sends what is settled as well", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  stream.send(delivered(1, "a"));
  assert.equal(await (await consumer.next()).ack(), true);
  const closed = client.close();
  await assert.rejects(client.consume("q"), ClosedError);
  assert.deepEqual(await settles(stream), [[1, true, "ACK"]]);
  await stream.closed;
  await closed;
});

test("waits for deliveries end with their signal, and another gets the delivery", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q");
  const { stream } = await begin(broker);
  const consumer = await starting;
  const controller = new AbortController();
  const first = consumer.next({ signal: controller.signal });
  const second = consumer.next();
  controller.abort(new Error("enough"));
  await assert.rejects(first, /enough/);
  stream.send(delivered(1, "a"));
  assert.equal((await second).text(), "a");
  await assert.rejects(consumer.next({ signal: AbortSignal.abort(new Error("before")) }), /before/);
});

test("a temporary queue has its bindings, again after a lost connection", async (t) => {
  const { client, brokers } = await start(t, 2);
  const bindings = [{ source: "logs", routingKey: "k", arguments: { a: 1 } }];
  const starting = client.consume("", { temporary: { bindings, arguments: { "x-max-length": 5 } } });
  const first = await begin(brokers[0]!, "amq.gen-1");
  const consumer = await starting;
  assert.equal(consumer.queue, "amq.gen-1");
  assert.equal(first.start!.temporary!.bindings[0]!.source, "logs");
  assert.equal(first.start!.temporary!.arguments!["x-max-length"]!.int64Value, "5");
  brokers[0]!.stop();
  const second = await begin(brokers[1]!, "amq.gen-2");
  assert.deepEqual(second.start, first.start);
});

test("a consumer that settles by itself reads no more than the program takes", async (t) => {
  const { client, broker } = await start(t);
  const starting = client.consume("q", { autoSettle: true, credit: 2 });
  const { stream } = await begin(broker);
  const consumer = await starting;
  const count = 500;
  for (let i = 0; i < count; i++) {
    stream.send(delivered(i + 1, `${i}`));
  }
  for (let i = 0; i < count; i++) {
    const d = await consumer.next();
    assert.equal(d.text(), `${i}`);
    assert.equal(await d.ack(), true);
    assert((consumer as unknown as { deliveries: { length: number } }).deliveries.length <= 2);
  }
  assert.equal(stream.requests.length, 0, "nothing is settled");
});

test("handle settles by what the handler does, with so many workers, until its signal aborts", async (t) => {
  const { client, broker } = await start(t);
  const controller = new AbortController();
  let most = 0;
  let running = 0;
  const handling = client.handle(
    "q",
    async (d) => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
      if (d.text() === "bad") {
        throw new Error("cannot");
      }
    },
    { workers: 2, signal: controller.signal },
  );
  const { stream } = await begin(broker);
  stream.send(delivered(1, "a", "b", "bad", "c"));
  const got: unknown[][] = [];
  while (!(got.some(([tag]) => tag === 3) && got.some(([tag]) => tag === 4))) {
    got.push(...(await settles(stream)));
  }
  assert.deepEqual(got.find(([tag]) => tag === 3), [3, false, "REQUEUE_FAILED"]);
  assert.equal(most, 2);
  controller.abort();
  await stream.closed;
  await handling;
});

test("a handler may settle by itself", async (t) => {
  const { client, broker } = await start(t);
  const controller = new AbortController();
  const handling = client.handle(
    "q",
    async (d) => {
      await d.requeue(1000);
      if (d.text() === "bad") {
        throw new Error("cannot");
      }
    },
    { signal: controller.signal },
  );
  const { stream } = await begin(broker);
  stream.send(delivered(1, "a", "bad"));
  const got: unknown[][] = [];
  while (got.length < 2) {
    got.push(...(await settles(stream)));
  }
  assert.deepEqual(got, [
    [1, false, "REQUEUE"],
    [2, false, "REQUEUE"],
  ]);
  controller.abort();
  await handling;
});

test("handle says why it cannot go on", async (t) => {
  const { client, broker } = await start(t);
  const handling = client.handle("q", () => undefined);
  const { stream } = await begin(broker);
  stream.fail(status.PERMISSION_DENIED, "no", "ACCESS_REFUSED");
  await assert.rejects(handling, (e) => e instanceof BrokerError && e.reason === "ACCESS_REFUSED");
});

test("get takes one message and settles it", async (t) => {
  const { client, broker } = await start(t);
  const getting = client.get("q");
  const stream = await broker.gets.next();
  assert.deepEqual((await stream.requests.next()).fetch, { queue: "q", autoSettle: false });
  stream.send({ delivery: delivered(1, "a").deliveries!.deliveries[0]!, messagesLeft: "0" });
  const delivery = await getting;
  assert.equal(delivery!.text(), "a");
  assert.equal(await delivery!.extend(), true);
  assert.deepEqual((await stream.requests.next()).extendLeases!.deliveryTags, ["1"]);
  const failed = delivery!.fail(1500);
  const { settle } = await stream.requests.next();
  assert.deepEqual([settle!.settlement, settle!.delayMillis], ["SETTLEMENT_REQUEUE_FAILED", "1500"]);
  await stream.closed;
  assert.equal(await failed, true);
  await assert.rejects(delivery!.ack(), SettledError);
  await assert.rejects(delivery!.extend(), SettledError);
});

test("get of an empty queue is undefined; of none, an error; on a lost connection, tried again", async (t) => {
  const { client, broker } = await start(t);
  const empty = client.get("q", { autoSettle: true });
  (await broker.gets.next()).fail(status.UNAVAILABLE, "no leader", "UNAVAILABLE");
  (await broker.gets.next()).send({ messagesLeft: "0" });
  assert.equal(await empty, undefined);
  const none = client.get("none");
  (await broker.gets.next()).fail(status.NOT_FOUND, "no queue", "NOT_FOUND");
  await assert.rejects(none, (e) => e instanceof BrokerError && e.reason === "NOT_FOUND");
});

test("a message that was got is delivered again when its connection is lost", async (t) => {
  const { client, broker } = await start(t);
  const getting = client.get("q");
  const stream = await broker.gets.next();
  stream.send({ delivery: delivered(1, "a").deliveries!.deliveries[0]!, messagesLeft: "0" });
  const delivery = await getting;
  broker.stop();
  assert.equal(await delivery!.ack(), false);
  await assert.rejects(delivery!.extend(), SettledError);
});

test("what was declared is declared again after a lost connection, in order, without what was deleted", async (t) => {
  const { client, brokers } = await start(t, 2);
  const names = (q: string) => (_: string, request: Record<string, unknown>) => ({ name: (request["name"] as string) || q, messages: "0" });
  brokers.forEach((b) => (b.answer = names("amq.gen-1")));
  await client.declareExchange({ name: "x", type: "topic" });
  await client.declareQueue({ name: "q", durable: true });
  await client.declareQueue({ name: "gone" });
  assert.equal((await client.declareQueue({})).name, "amq.gen-1");
  await client.bind({ source: "x", destination: "q", routingKey: "a" });
  await client.bind({ source: "x", destination: "q", routingKey: "b", arguments: { n: 1 } });
  await client.bind({ source: "x", destination: "gone", routingKey: "c" });
  await client.bind({ source: "x", destination: "q", routingKey: "b", arguments: { n: 1 } });
  await client.unbind({ source: "x", destination: "q", routingKey: "a" });
  await client.deleteQueue("gone");
  const starting = client.consume("q");
  await begin(brokers[0]!);
  await starting;
  brokers[0]!.stop();
  await begin(brokers[1]!);
  const again: string[] = [];
  while (brokers[1]!.calls.length > 0) {
    const { method, request } = await brokers[1]!.calls.next();
    again.push(`${method} ${(request["name"] as string) ?? (request["binding"] as { routingKey: string }).routingKey}`);
  }
  assert.deepEqual(again, ["DeclareExchange x", "DeclareQueue q", "Bind b"]);
});

test("what cannot be declared again does not hold up the rest", async (t) => {
  const { client, brokers } = await start(t, 2);
  await client.declareQueue({ name: "q" });
  await client.declareExchange({ name: "x", type: "fanout" });
  brokers[1]!.answer = (method) => {
    if (method === "DeclareQueue") {
      throw failure(status.FAILED_PRECONDITION, "differs", "PRECONDITION_FAILED");
    }
    return {};
  };
  const starting = client.consume("q");
  await begin(brokers[0]!);
  await starting;
  brokers[0]!.stop();
  await begin(brokers[1]!);
  assert.equal((await brokers[1]!.calls.next()).method, "DeclareQueue");
  assert.equal((await brokers[1]!.calls.next()).method, "DeclareExchange");
});

test("calls are made again on another node, until they are refused or their signal aborts", async (t) => {
  const { client, brokers } = await start(t, 2);
  brokers[0]!.answer = () => {
    throw failure(status.UNAVAILABLE, "no leader", "UNAVAILABLE");
  };
  brokers[1]!.answer = () => ({ name: "q", messages: "7", consumers: 2 });
  assert.deepEqual(await client.inspectQueue("q"), { name: "q", messages: 7, consumers: 2 });
  brokers[1]!.answer = brokers[0]!.answer;
  const controller = new AbortController();
  const calling = client.inspectQueue("q", { signal: controller.signal });
  await brokers[1]!.calls.next();
  await brokers[1]!.calls.next();
  controller.abort(new Error("enough"));
  await assert.rejects(calling, /enough/);
  await client.close();
  await assert.rejects(client.inspectQueue("q"), ClosedError);
  assert.throws(() => client.publisher(), ClosedError);
  await assert.rejects(client.consume("q"), ClosedError);
});

test("close ends calls that are under way", async (t) => {
  const { client, broker } = await start(t);
  broker.hold = true;
  const calling = client.inspectQueue("q");
  await broker.calls.next();
  const getting = client.get("q");
  await broker.gets.next();
  const ended = Promise.all([assert.rejects(calling, ClosedError), assert.rejects(getting, ClosedError)]);
  await client.close();
  await ended;
});

test("lists come in pages", async (t) => {
  const { client, broker } = await start(t);
  broker.answer = (_, request) =>
    request["pageToken"] === "" ? { exchanges: [{ name: "a", type: "topic" }], nextPageToken: "more" } : { exchanges: [{ name: "b", type: "fanout", durable: true }] };
  const names = [];
  for await (const x of client.exchanges()) {
    names.push([x.name, x.type, x.durable]);
  }
  assert.deepEqual(names, [
    ["a", "topic", false],
    ["b", "fanout", true],
  ]);
});

test("many consumers, and many calls with one signal, are no leak", async (t) => {
  const warnings: string[] = [];
  const warn = (w: Error) => warnings.push(w.message);
  process.on("warning", warn);
  const { client, broker } = await start(t);
  const { signal } = new AbortController();
  const count = 30;
  const starting = Promise.all(Array.from({ length: count }, () => client.consume("q", { signal })));
  for (let i = 0; i < count; i++) {
    await begin(broker);
  }
  const consumers = await starting;
  consumers.forEach((c) => c.next({ signal }).catch(() => undefined));
  await Promise.all(Array.from({ length: count }, () => client.inspectQueue("q", { signal })));
  await new Promise((resolve) => setImmediate(resolve)); // warnings come in the next turn
  process.off("warning", warn);
  assert.deepEqual(warnings, []);
});

test("a client needs an address", () => {
  assert.throws(() => new Client([]), /no addresses/);
});
