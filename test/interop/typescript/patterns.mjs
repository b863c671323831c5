// The tutorial's patterns by the TypeScript SDK, between two nodes: patterns.mjs NAME NEAR FAR. Fails loudly.
import assert from "node:assert/strict";

import { BrokerError, Client, RejectedError, status, UnroutableError } from "../../../clients/typescript/dist/index.js";

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
  await refused(near.consume(name, { signal }), status.PERMISSION_DENIED, "ACCESS_REFUSED", /exclusive/);
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

await hello();
await workQueue();
await redelivery();
await exchange("fanout", {}, { routingKey: "any" });
await exchange("direct", { routingKey: "error" }, { routingKey: "error" }, { routingKey: "info" });
await exchange("topic", { routingKey: "*.orange.#" }, { routingKey: "quick.orange.fox" }, { routingKey: "orange.fox" });
await exchange("headers", { arguments: { "x-match": "all", a: 1, b: "x" } }, { headers: { a: 1, b: "x", c: true } }, { headers: { a: 1 } });
await rpc();
await refusals();
await near.close();
await far.close();
