// The tutorial's patterns by the TypeScript SDK, between two nodes: patterns.mjs NAME NEAR FAR. Fails loudly.
import assert from "node:assert/strict";

import { BrokerError, Client, Octets, RejectedError, status, UnroutableError } from "../../../clients/typescript/dist/index.js";

const [name, ...addresses] = process.argv.slice(2);
const [near, far] = addresses.map((address) => new Client([address]));
const signal = AbortSignal.timeout(120_000);

/** Takes messages and compares their bodies. */
async function expect(consumer, ...bodies) {
  for (const body of bodies) {
    const delivery = await consumer.next({ signal });
    assert.equal(delivery.text(), body);
    assert.equal(await delivery.ack(), true);
  }
}

async function hello() {
  await near.declareQueue({ name, durable: true }, { signal });
  const consumer = await far.consume(name, { signal });
  await near.publisher().publish({ routingKey: name, body: "hello" }, { signal });
  await expect(consumer, "hello");
  await consumer.close();
}

/** Two workers with one task each at a time: a slow one does not hold up the other. */
async function workQueue() {
  const slow = await far.consume(name, { credit: 1, signal });
  const publisher = near.publisher();
  await publisher.publish({ routingKey: name, body: "long" }, { signal });
  const long = await slow.next({ signal });
  const fast = await near.consume(name, { credit: 1, signal });
  const tasks = ["1", "2", "3", "4"];
  for (const body of tasks) {
    await publisher.publish({ routingKey: name, body }, { signal });
  }
  await expect(fast, ...tasks);
  await long.ack();
  await slow.close();
  await fast.close();
}

/** A worker that goes leaves its task to another, marked. */
async function redelivery() {
  const first = await far.consume(name, { signal });
  await near.publisher().publish({ routingKey: name, body: "precious" }, { signal });
  await first.next({ signal });
  await first.close();
  const second = await near.consume(name, { signal });
  const delivery = await second.next({ signal });
  assert.deepEqual([delivery.text(), delivery.redelivered], ["precious", true]);
  await delivery.ack();
  await second.close();
}

/** Publishes a message that the binding matches and one that it does not. */
async function exchange(type, binding, matches, misses) {
  const source = `${name}.${type}`;
  await near.declareExchange({ name: source, type }, { signal });
  const subscribers = [];
  for (const client of [far, near]) {
    subscribers.push(await client.consume("", { temporary: { bindings: [{ ...binding, source }] }, signal }));
  }
  const publisher = near.publisher();
  if (misses) {
    await assert.rejects(publisher.publish({ ...misses, exchange: source }, { signal }), UnroutableError);
  }
  await publisher.publish({ ...matches, exchange: source, body: type }, { signal });
  for (const subscriber of subscribers) {
    await expect(subscriber, type);
    await subscriber.close();
  }
}

async function rpc() {
  const requests = `${name}.rpc`;
  await far.declareQueue({ name: requests }, { signal });
  const answers = far.publisher();
  const stop = new AbortController();
  const server = far.handle(
    requests,
    (d) => answers.publish({ routingKey: d.replyTo, correlationId: d.correlationId, body: d.text().toUpperCase() }, { signal }),
    { signal: stop.signal },
  );
  const replies = await near.consume("", { temporary: true, signal });
  const publisher = near.publisher();
  const want = [];
  for (let i = 0; i < 20; i++) {
    want.push(`${i} A${i}`);
    await publisher.publish({ routingKey: requests, replyTo: replies.queue, correlationId: `${i}`, body: `a${i}` }, { signal });
  }
  const got = [];
  while (got.length < want.length) {
    const delivery = await replies.next({ signal });
    got.push(`${delivery.correlationId} ${delivery.text()}`);
    await delivery.ack();
  }
  assert.deepEqual(got, want);
  stop.abort();
  await server;
}

/** Refusals have a code, a reason and a text, and do not end what is beside them. */
async function refusals() {
  const refused = (promise, code, reason, text) =>
    assert.rejects(promise, (e) => e instanceof BrokerError && e.code === code && e.reason === reason && text.test(e.message));
  await refused(near.inspectQueue(`${name}.none`, { signal }), status.NOT_FOUND, "NOT_FOUND", /no queue/);
  await refused(near.consume(`${name}.none`, { signal }), status.NOT_FOUND, "NOT_FOUND", /no queue/);
  await refused(near.get(`${name}.none`, { signal }), status.NOT_FOUND, "NOT_FOUND", /no queue/);
  await refused(near.declareQueue({ name }, { signal }), status.FAILED_PRECONDITION, "PRECONDITION_FAILED", /durable/);
  const exclusive = await far.consume(name, { exclusive: true, signal });
  await assert.rejects(near.consume(name, { signal }), (e) => e instanceof BrokerError && /exclusive/.test(e.message));
  await exclusive.close();
  const stranger = new Client([addresses[0]], { password: "wrong" });
  await refused(stranger.status({ signal }), status.UNAUTHENTICATED, "LOGIN_REFUSED", /refused/);
  await refused(stranger.consume(name, { signal }), status.UNAUTHENTICATED, "LOGIN_REFUSED", /refused/);
  await stranger.close();
  const elsewhere = new Client([addresses[0]], { vhost: "none" });
  await refused(elsewhere.consume(name, { signal }), status.PERMISSION_DENIED, "NOT_ALLOWED", /vhost/);
  await elsewhere.close();
  const publisher = near.publisher();
  await assert.rejects(publisher.publish({ exchange: `${name}.none` }, { signal }), (e) => e instanceof RejectedError && e.reason === "NOT_FOUND");
  await publisher.publish({ routingKey: name, body: "after" }, { signal });
  const delivery = await far.get(name, { signal });
  assert.equal(delivery.text(), "after");
  assert.equal(await delivery.ack(), true);
  assert.equal(await far.get(name, { signal }), undefined);
}

/**
 * A message above the bound is rejected, by the broker or (when its request is too large) by gRPC, and harms no other. Long headers
 * count as well.
 */
async function sizes() {
  const publisher = near.publisher();
  for (const size of [17 << 20, 21 << 20]) {
    const bodies = ["before", Buffer.alloc(size), "after"];
    const outcomes = await Promise.allSettled(bodies.map((body) => publisher.publish({ routingKey: name, body }, { signal })));
    assert.deepEqual(outcomes.map((o) => o.reason?.reason), [undefined, "PRECONDITION_FAILED", undefined]);
    assert(outcomes[1].reason instanceof RejectedError);
  }
  const headers = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`h${i}`, "x".repeat(1024)]));
  await Promise.all(Array.from({ length: 600 }, () => publisher.publish({ routingKey: name, headers }, { signal })));
  assert.equal(await near.purgeQueue(name, { signal }), 604);
}

/** What has AMQP properties that fields cannot say is passed on as it was. */
async function passedOn() {
  const publisher = near.publisher();
  const amqpEncoded = Buffer.from([0x20, 0x00, 0, 0, 0, 9, 1, 0x68, 0x53, 0, 0, 0, 2, 65, 255]); // a header h, a text that is not UTF-8
  await publisher.publish({ routingKey: name, amqpEncoded }, { signal });
  for (let i = 0; i < 2; i++) {
    const delivery = await far.get(name, { signal });
    assert.deepEqual({ ...delivery.headers }, { h: new Octets([65, 255]) });
    await publisher.publish({ ...delivery, routingKey: name }, { signal });
    await delivery.ack();
  }
  await near.purgeQueue(name, { signal });
  await publisher.publish({ routingKey: name, headers: { h: new Octets([66, 254]) }, priority: 0, clusterId: "c" }, { signal });
  const { headers, priority, clusterId, ...delivery } = await far.get(name, { autoSettle: true, signal });
  assert.deepEqual([headers.h, priority, clusterId, delivery.amqpEncoded], [new Octets([66, 254]), 0, "c", undefined]);
}

await hello();
await workQueue();
await redelivery();
await exchange("fanout", {}, { routingKey: "any" });
await exchange("direct", { routingKey: "error" }, { routingKey: "error" }, { routingKey: "info" });
await exchange("topic", { routingKey: "*.orange.#" }, { routingKey: "quick.orange.fox" }, { routingKey: "orange.fox" });
await exchange("headers", { arguments: { "x-match": "all", a: 1, b: "x" } }, { headers: { a: 1, b: "x", c: true } }, { headers: { a: 1 } });
await rpc();
await refusals();
await sizes();
await passedOn();
await near.close();
await far.close();
