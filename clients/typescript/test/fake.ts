// A broker that does what a test tells it: it shows what the client sends, and answers with what the test wants.
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type * as wire from "../dist/wire.js";

const loaded = loadSync(
  ["publishing", "consuming", "topology", "admin"].map((name) => `broker/v1/${name}.proto`),
  { includeDirs: [fileURLToPath(new URL("../dist/proto/", import.meta.url))], longs: String, enums: String, defaults: true, oneofs: true },
);

/** What comes, in order, to be waited for. */
export class Inbox<T> {
  private readonly items: T[] = [];
  private readonly waiting: ((item: T) => void)[] = [];

  put(item: T): void {
    const waiting = this.waiting.shift();
    if (waiting) {
      waiting(item);
    } else {
      this.items.push(item);
    }
  }

  next(): Promise<T> {
    if (this.items.length > 0) {
      return Promise.resolve(this.items.shift()!);
    }
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  get length(): number {
    return this.items.length;
  }
}

/** The broker's side of a stream. */
export class Served<Q, R> {
  readonly requests = new Inbox<Q>();
  /** Resolves when the client has half-closed; the stream ends then, as the broker's does. */
  readonly closed: Promise<void>;
  readonly metadata: grpc.Metadata;

  constructor(private readonly call: grpc.ServerDuplexStream<Q, R>) {
    this.metadata = call.metadata;
    call.on("data", (request: Q) => this.requests.put(request));
    call.on("error", () => undefined);
    this.closed = new Promise((resolve) => {
      call.on("end", () => {
        call.end();
        resolve();
      });
    });
  }

  send(response: R): void {
    this.call.write(response);
  }

  end(): void {
    this.call.end();
  }

  fail(code: grpc.status, details: string, reason?: string): void {
    this.call.emit("error", failure(code, details, reason));
  }
}

/** A status with an ErrorInfo, as the broker makes them. */
export function failure(code: grpc.status, details: string, reason?: string): grpc.StatusObject {
  const metadata = new grpc.Metadata();
  if (reason !== undefined) {
    const info = Buffer.concat([field(1, reason), field(2, "warrenmq")]);
    const any = Buffer.concat([field(1, "type.googleapis.com/google.rpc.ErrorInfo"), field(2, info)]);
    metadata.set("grpc-status-details-bin", Buffer.concat([Buffer.from([8, code]), field(2, details), field(3, any)]));
  }
  return { code, details, metadata };
}

/** Encodes a field of up to 127 bytes. */
function field(number: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value as string);
  return Buffer.concat([Buffer.from([number * 8 + 2, bytes.length]), bytes]);
}

/** The greatest request that a broker takes, in bytes. */
export const limit = 5 << 20;

type Unary = (request: unknown) => unknown;

/** A broker with one address. */
export class FakeBroker {
  readonly publishers = new Inbox<Served<wire.PublishRequest, wire.PublishResponse>>();
  readonly consumers = new Inbox<Served<wire.ConsumeRequest, wire.ConsumeResponse>>();
  readonly gets = new Inbox<Served<wire.GetRequest, wire.GetResponse>>();
  /** The calls with one request, as "Method": they answer with nothing unless answer says otherwise. */
  readonly calls = new Inbox<{ method: string; request: Record<string, unknown> }>();
  answer: (method: string, request: Record<string, unknown>) => unknown = () => ({});
  /** Calls are not answered. */
  hold = false;
  address = "";
  private server = newServer();

  static async start(): Promise<FakeBroker> {
    const broker = new FakeBroker();
    await broker.serve("127.0.0.1:0");
    return broker;
  }

  /** Ends all connections. */
  stop(): void {
    this.server.forceShutdown();
  }

  /** Serves at the same address after stop. */
  async again(): Promise<void> {
    this.server = newServer();
    await this.serve(this.address);
  }

  private async serve(address: string): Promise<void> {
    const service = (name: string) => loaded[`warren.broker.v1.${name}Service`] as unknown as grpc.ServiceDefinition;
    this.server.addService(service("Publishing"), { Publish: this.stream(this.publishers) });
    this.server.addService(service("Consuming"), { Consume: this.stream(this.consumers), Get: this.stream(this.gets) });
    for (const name of ["Topology", "Admin"]) {
      const methods = Object.keys(service(name)).map((method) => [method, this.unary(method)]);
      this.server.addService(service(name), Object.fromEntries(methods) as grpc.UntypedServiceImplementation);
    }
    const port = await new Promise<number>((resolve, reject) => {
      this.server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound)));
    });
    this.address = `127.0.0.1:${port}`;
  }

  private stream<Q, R>(inbox: Inbox<Served<Q, R>>): grpc.handleBidiStreamingCall<Q, R> {
    return (call) => inbox.put(new Served(call));
  }

  private unary(method: string): grpc.handleUnaryCall<Record<string, unknown>, unknown> {
    return (call, callback) => {
      this.calls.put({ method, request: call.request });
      if (this.hold) {
        return;
      }
      try {
        callback(null, (this.answer as (method: string, request: Record<string, unknown>) => ReturnType<Unary>)(method, call.request));
      } catch (error) {
        callback(error as grpc.StatusObject);
      }
    };
  }
}

function newServer(): grpc.Server {
  return new grpc.Server({ "grpc.max_receive_message_length": limit });
}

/** Answers with the confirms of one range. */
export function confirmed(first: number | bigint, last: number | bigint): wire.PublishResponse {
  return { confirms: { confirms: [{ firstSequence: `${first}`, lastSequence: `${last}`, outcome: "OUTCOME_CONFIRMED", reason: "ERROR_REASON_UNSPECIFIED", detail: "" }] } };
}

/** Answers with deliveries of consecutive tags, with their bodies. */
export function delivered(first: number, ...bodies: string[]): wire.ConsumeResponse {
  return {
    deliveries: {
      deliveries: bodies.map((body, i) => ({
        deliveryTag: `${first + i}`,
        redelivered: false,
        message: { exchange: "", routingKey: "q", body: Buffer.from(body) },
      })),
    },
  };
}
