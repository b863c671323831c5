// Publishes numbers and consumes them by the TypeScript SDK while the nodes that it uses are killed:
// kills.mjs QUEUE PER_SECOND LEAST ADDRESS... A line on its standard input asks for the node in use and how many numbers have
// come; the line "enough" says that no more nodes are killed. It publishes until then, at least LEAST numbers, and ends once
// all have come.
import { createInterface } from "node:readline";

import { Client } from "../../../clients/typescript/dist/index.js";

const [queue, perSecond, least, ...addresses] = process.argv.slice(2);
const client = new Client(addresses, { logger: { info: log, warn: log } });
const tickMs = 10;
const quietMs = 2_000;
const patienceMs = 120_000; // without any number that comes
let enough = false;
let wanted = Infinity; // how many numbers there are, once that is known
const seen = new Set();
const faults = []; // what should not be

function log(message, fields) {
  console.error(message, fields);
}

function fault(text) {
  if (faults.length < 20) {
    faults.push(text);
  }
}

async function publish() {
  const publisher = client.publisher({ maxUnconfirmed: 1000 });
  const began = Date.now();
  let n = 0;
  while (!enough || n < Number(least)) {
    const due = ((Date.now() - began) / 1000) * Number(perSecond);
    for (; n < due && (!enough || n < Number(least)); n++) {
      const number = n;
      await publisher.publishAsync({ routingKey: queue, body: `${number}` }, (error) => error && fault(`message ${number}: ${error}`));
    }
    await new Promise((resolve) => setTimeout(resolve, tickMs));
  }
  await publisher.close();
  wanted = n;
}

async function consume(consumer) {
  let last = -1; // of those not redelivered
  for await (const delivery of consumer) {
    const n = Number(delivery.text());
    if (!delivery.redelivered) {
      if (seen.has(n)) {
        fault(`message ${n} is in the queue twice`);
      } else if (n < last) {
        fault(`message ${n} after ${last}`);
      }
      last = n;
    }
    seen.add(n);
    void delivery.ack();
  }
}

await client.declareQueue({ name: queue, durable: true });
const consumer = await client.consume(queue);
const commands = createInterface({ input: process.stdin });
commands.on("line", async (line) => {
  if (line === "enough") {
    enough = true;
    return;
  }
  const { node } = await client.status();
  console.log(`[x] ${node} ${seen.size}`);
});
console.log("[*] Waiting");
const consuming = consume(consumer);
await publish();
for (let before = seen.size, until = Date.now() + patienceMs; seen.size < wanted && Date.now() < until; ) {
  await new Promise((resolve) => setTimeout(resolve, tickMs));
  if (seen.size > before) {
    [before, until] = [seen.size, Date.now() + patienceMs];
  }
}
// What is in the queue twice would come now.
await new Promise((resolve) => setTimeout(resolve, quietMs));
await consumer.close();
await consuming;
const { messages } = await client.inspectQueue(queue);
if (messages > 0) {
  fault(`${messages} messages are left`);
}
if (seen.size !== wanted) {
  fault(`${seen.size} numbers came of ${wanted}`);
}
await client.close();
commands.close();
for (const text of faults) {
  console.log(`fault: ${text}`);
}
console.log(`[x] ${wanted} messages, ${faults.length} faults`);
