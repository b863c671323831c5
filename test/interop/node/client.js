// Drives a broker with amqplib: client.js SCENARIO, with the broker's URL in BROKER_URL. Prints "ok SCENARIO" at the end.
'use strict';
const assert = require('node:assert');
const crypto = require('node:crypto');
const amqp = require('amqplib');

// sizes are mixed as real traffic is: most under 1 KiB, some empty, some up to 4 MiB; the same for every run.
function sizes(count, large) {
  const list = [];
  for (let i = 0; i < count; i++) list.push(i % 50 === 0 ? 0 : (i * 7919) % 1024);
  for (let i = 0; i < large; i++) list[Math.floor((i + 0.5) * count / large)] = ((i * 104729) % (4 << 20)) + 1;
  return list;
}

// bodyOf makes the i-th message's bytes from its number alone.
function bodyOf(i, size) {
  const seed = crypto.createHash('sha256').update(String(i)).digest();
  const body = Buffer.alloc(size);
  for (let at = 0; at < size; at += seed.length) seed.copy(body, at);
  return body;
}

async function mixed(connection) {
  const count = Number(process.env.COUNT || 2000), large = Number(process.env.LARGE || 20);
  const list = sizes(count, large);
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue('node-mixed', { durable: true });
  await channel.purgeQueue(queue);
  const receiver = await connection.createChannel();
  await receiver.prefetch(100);
  let next = 0;
  const received = new Promise((resolve, reject) => {
    receiver.consume(queue, (message) => {
      try {
        assert.strictEqual(message.properties.headers.n, next, 'order');
        assert.ok(message.content.equals(bodyOf(next, list[next])), 'bytes of message ' + next);
        receiver.ack(message);
        if (++next === count) resolve();
      } catch (error) { reject(error); }
    }).catch(reject);
  });
  for (let i = 0; i < count; i++) {
    const room = channel.publish('', queue, bodyOf(i, list[i]), { persistent: true, headers: { n: i } });
    if (!room) await new Promise((resolve) => channel.once('drain', resolve));
  }
  await channel.waitForConfirms();
  await received;
  await receiver.close();
  assert.strictEqual((await channel.deleteQueue(queue)).messageCount, 0);
}

async function basics(connection) {
  const channel = await connection.createConfirmChannel();
  const { queue } = await channel.assertQueue('', { exclusive: true });
  const returned = new Promise((resolve) => channel.once('return', resolve));
  channel.publish('', 'no-such-queue-' + queue, Buffer.from('lost'), { mandatory: true });
  assert.strictEqual((await returned).content.toString(), 'lost');
  await channel.waitForConfirms();
  assert.strictEqual(await channel.get(queue), false);
  channel.sendToQueue(queue, Buffer.from('a'), { messageId: 'm1', headers: { nested: { list: [1, 'x', true] } } });
  await channel.waitForConfirms();
  const message = await channel.get(queue);
  assert.strictEqual(message.properties.messageId, 'm1');
  assert.deepStrictEqual(message.properties.headers.nested, { list: [1, 'x', true] });
  channel.nack(message);
  const again = await channel.get(queue, { noAck: true });
  assert.strictEqual(again.fields.redelivered, true);
  const cancelled = new Promise((resolve) => channel.consume(queue, (m) => { if (m === null) resolve(); }));
  await channel.checkQueue(queue);
  await channel.deleteQueue(queue);
  await cancelled;
}

async function missing(connection) {
  const channel = await connection.createChannel();
  channel.on('error', () => {});
  await assert.rejects(channel.checkQueue('node-missing'), (error) => error.code === 404 && /no queue 'node-missing' in vhost '\/'/.test(error.message));
}

async function main() {
  const scenario = { basics, mixed, missing }[process.argv[2]];
  assert.ok(scenario, 'usage: client.js basics|mixed|missing');
  const connection = await amqp.connect(process.env.BROKER_URL);
  await scenario(connection);
  await connection.close();
  console.log('ok ' + process.argv[2]);
}

main().catch((error) => { console.error(error); process.exit(1); });
