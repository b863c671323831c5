// The TypeScript SDK as the other side of the tutorial's programs, which speak AMQP: crossing.mjs receive QUEUE prints what
// they send, crossing.mjs send QUEUE sends what they print. ADDRESS names the node.
import { Client, Typed } from "../../../clients/typescript/dist/index.js";

const [side, queue] = process.argv.slice(2);
const client = new Client([process.env.ADDRESS]);
await client.declareQueue({ name: "hello" });
await client.declareQueue({ name: queue, durable: true });
await client.declareQueue({ name: "rpc_queue" });
await client.declareExchange({ name: "logs", type: "fanout" });
await client.declareExchange({ name: "direct_logs", type: "direct" });
await client.declareExchange({ name: "topic_logs", type: "topic" });
await client.declareExchange({ name: "headers_logs", type: "headers" });
const publisher = client.publisher();

function fibonacci(n) {
  let [a, b] = [0, 1];
  for (let i = 0; i < n; i++) {
    [a, b] = [b, a + b];
  }
  return a;
}

function show(value) {
  switch (typeof value) {
    case "bigint":
      return `${value}n`;
    case "object":
      return JSON.stringify(value);
    default:
      return value;
  }
}

/** Prints what a consumer gets, as it comes. */
async function print(consumer) {
  for await (const delivery of consumer) {
    const { exchange, routingKey, priority, messageId = "" } = delivery;
    const headers = Object.entries(delivery.headers).map(([key, value]) => `${key}=${show(value)}`);
    const words = [exchange, routingKey, delivery.text(), priority === undefined ? "" : `priority=${priority}`, messageId, ...headers.sort()];
    console.log(`[x] ${words.filter((word) => word !== "").join(" ")}`);
    await delivery.ack();
  }
}

async function receive() {
  const subscribe = (source, ...keys) => client.consume("", { temporary: { bindings: keys.map((key) => ({ source, ...key })) } });
  const consumers = [
    await client.consume("hello"),
    await client.consume(queue, { credit: 1 }),
    await subscribe("logs", {}),
    await subscribe("direct_logs", { routingKey: "error" }),
    await subscribe("topic_logs", { routingKey: "kern.*" }, { routingKey: "*.critical" }),
    await subscribe("headers_logs", { arguments: { "x-match": "all", type: "report", format: "pdf" } }),
  ];
  void client.handle("rpc_queue", async (request) => {
    await publisher.publish({ routingKey: request.replyTo, correlationId: request.correlationId, body: `${fibonacci(Number(request.text()))}` });
  });
  console.log("[*] Waiting");
  await Promise.all(consumers.map(print));
}

async function send() {
  await publisher.publish({ routingKey: "hello", body: "Hello World!" });
  for (const body of ["one", "two", "three"]) {
    await publisher.publish({ routingKey: queue, body });
  }
  await publisher.publish({ exchange: "logs", body: "info: hello" });
  await publisher.publish({ exchange: "direct_logs", routingKey: "error", body: "broken" });
  await publisher.publish({ exchange: "topic_logs", routingKey: "kern.critical", body: "A critical kernel error" });
  await publisher.publish({ exchange: "headers_logs", headers: { type: "report", format: "pdf" }, body: "a report" });
  await client.declareQueue({ name: `${queue}.all` });
  await publisher.publish({
    routingKey: `${queue}.all`,
    body: "all",
    priority: 7,
    messageId: "m",
    expirationMs: 60_000,
    timestamp: new Date(1_700_000_000_000),
    headers: { big: 2n ** 60n, short: new Typed("int16", 5), n: 7, half: 0.5, table: { list: ["x", null] } },
  });
  const replies = await client.consume("", { temporary: true });
  await publisher.publish({ routingKey: "rpc_queue", replyTo: replies.queue, correlationId: "7", body: "10" });
  const reply = await replies.next();
  console.log(`[x] ${reply.correlationId} ${reply.text()}`);
  await client.close();
}

await (side === "receive" ? receive() : send());
