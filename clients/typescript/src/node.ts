import * as grpc from "@grpc/grpc-js";

import { onAbort } from "./abort.js";
import { AgainError, unavailable } from "./errors.js";
import type { Method } from "./wire.js";

const pingEveryMs = 10_000;
const pingTimeoutMs = 5_000;
const connectTimeoutMs = 3_000;
const streamWindow = 4 << 20;
const resolveEveryMs = 1_000;

/** Certificates for TLS, in PEM. */
export interface TlsOptions {
  /** The authorities that the nodes' certificates are checked against; left out: the system's. */
  ca?: Uint8Array | string;
  /** The client's own certificate, with `key`: signed by the nodes' authority, it can stand for a user and password. */
  cert?: Uint8Array | string;
  key?: Uint8Array | string;
  /** The name that the nodes' certificates must have, if it is not the one in the address. */
  serverName?: string;
}

/** What the connections to all nodes have in common. */
export interface NodeOptions {
  metadata: grpc.Metadata;
  tls: TlsOptions | undefined;
  reconnectDelayMs: { least: number; most: number };
  channelOptions: grpc.ChannelOptions;
  interceptors: grpc.Interceptor[];
}

/** The connection to one node. It is made when it is used, and made again after it was lost. */
export class Node {
  readonly address: string;
  private readonly client: grpc.Client;
  private readonly metadata: grpc.Metadata;

  constructor(address: string, options: NodeOptions) {
    this.address = address;
    this.metadata = options.metadata;
    this.client = new grpc.Client(address, credentialsOf(options.tls), { ...channelOptions(options), interceptors: options.interceptors });
  }

  close(): void {
    this.client.close();
  }

  /**
   * Waits until the connection is there or calls fail at once: the library would let a call wait for a host that does
   * not answer much longer.
   */
  private async connect(signal: AbortSignal): Promise<void> {
    const channel = this.client.getChannel();
    const deadline = Date.now() + connectTimeoutMs;
    for (;;) {
      const state = channel.getConnectivityState(true);
      if (state !== grpc.connectivityState.IDLE && state !== grpc.connectivityState.CONNECTING) {
        return;
      }
      await new Promise<void>((resolve, reject) => {
        const over = onAbort(signal, () => reject(signal.reason));
        channel.watchConnectivityState(state, deadline, (late) => {
          over();
          if (late) {
            reject(unavailable(`no connection to ${this.address} in time`));
          } else {
            resolve();
          }
        });
      });
    }
  }

  /** Makes a call with one request and one response. */
  async unary<Q, R>(method: Method<Q, R>, request: Q, signal: AbortSignal): Promise<R> {
    await this.connect(signal);
    signal.throwIfAborted();
    return new Promise<R>((resolve, reject) => {
      const call = this.client.makeUnaryRequest(method.path, method.encode, method.decode, request, this.metadata, {}, (error, response) => {
        over();
        if (error) {
          reject(error);
        } else {
          resolve(response as R);
        }
      });
      const over = onAbort(signal, () => call.cancel());
    });
  }

  /** Opens a stream, which ends at the latest when the signal aborts. */
  async stream<Q, R>(method: Method<Q, R>, signal: AbortSignal): Promise<Stream<Q, R>> {
    await this.connect(signal);
    signal.throwIfAborted();
    return new Stream(this.client.makeBidiStreamRequest(method.path, method.encode, method.decode, this.metadata, {}), signal);
  }
}

/** A stream in both directions. */
export class Stream<Q, R> {
  /** Rejects when the stream is over: with an AgainError when the node ended it without an error. */
  readonly ended: Promise<never>;
  /** Nothing more comes, and nothing more can be sent. */
  over = false;
  private readonly call: grpc.ClientDuplexStream<Q, R>;

  constructor(call: grpc.ClientDuplexStream<Q, R>, signal: AbortSignal) {
    this.call = call;
    const over = onAbort(signal, () => call.cancel());
    this.ended = new Promise<never>((_, reject) => {
      const end = (error: Error) => {
        this.over = true;
        over();
        reject(error);
      };
      call.on("error", end);
      call.on("end", () => end(new AgainError())); // behind an error, if there is one
    });
    this.ended.catch(() => undefined); // whoever waits for it hears of it
  }

  /** Calls f with each response until the stream is over. */
  onResponse(f: (response: R) => void): void {
    this.call.on("data", (response: R) => {
      if (!this.over) {
        f(response);
      }
    });
  }

  /** Calls f whenever there is room for requests again. */
  onRoom(f: () => void): void {
    this.call.on("drain", f);
  }

  /** Sends a request, and returns whether there is room for another one. What is sent behind the end is dropped. */
  send(request: Q): boolean {
    return !this.over && !this.call.writableEnded && this.call.write(request);
  }

  /** Tells the node that nothing more is sent. */
  closeSend(): void {
    this.call.end();
  }

  /** Ends a stream that is not over yet. */
  cancel(): void {
    if (!this.over) {
      this.call.cancel();
    }
  }

  pause(): void {
    this.call.pause();
  }

  resume(): void {
    this.call.resume();
  }
}

function credentialsOf(tls: TlsOptions | undefined): grpc.ChannelCredentials {
  if (!tls) {
    return grpc.credentials.createInsecure();
  }
  return grpc.credentials.createSsl(pem(tls.ca), pem(tls.key), pem(tls.cert));
}

function pem(value: Uint8Array | string | undefined): Buffer | null {
  return value === undefined ? null : Buffer.from(value);
}

function channelOptions(options: NodeOptions): grpc.ChannelOptions {
  const name = options.tls?.serverName;
  return {
    "grpc.keepalive_time_ms": pingEveryMs,
    "grpc.keepalive_timeout_ms": pingTimeoutMs,
    "grpc.initial_reconnect_backoff_ms": options.reconnectDelayMs.least,
    "grpc.max_reconnect_backoff_ms": options.reconnectDelayMs.most,
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.enable_retries": 0, // this package knows better which call may be made again
    "grpc.service_config_disable_resolution": 1,
    "grpc.dns_min_time_between_resolutions_ms": resolveEveryMs,
    "grpc.use_local_subchannel_pool": 1,
    "grpc-node.flow_control_window": streamWindow,
    ...(name && { "grpc.ssl_target_name_override": name, "grpc.default_authority": name }),
    ...options.channelOptions,
  };
}
