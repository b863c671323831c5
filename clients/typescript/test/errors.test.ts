import assert from "node:assert/strict";
import { test } from "node:test";

import { Metadata, status } from "@grpc/grpc-js";

import { BrokerError } from "@warrenmq/client";
import { fields, fromStatus, isLocked, isTransient } from "../dist/errors.js";
import { failure } from "./fake.js";

function thrown(code: status, details: string, reason?: string): Error {
  return Object.assign(new Error(details), failure(code, details, reason));
}

test("a status becomes an error with code, reason and text", () => {
  const error = fromStatus(thrown(status.NOT_FOUND, "no queue 'q'", "NOT_FOUND"));
  assert(error instanceof BrokerError);
  assert.deepEqual([error.code, error.reason, error.message], [status.NOT_FOUND, "NOT_FOUND", "no queue 'q'"]);
});

test("a queue that is another's is told from one that is forbidden", () => {
  assert(isLocked(thrown(status.FAILED_PRECONDITION, "queue 'q' is locked", "RESOURCE_LOCKED")));
  assert(isLocked(thrown(status.PERMISSION_DENIED, "queue 'q' in vhost '/' in exclusive use", "ACCESS_REFUSED")), "by a node of before");
  assert(!isLocked(thrown(status.PERMISSION_DENIED, "read access to queue 'q' refused", "ACCESS_REFUSED")));
  assert(!isLocked(new Error("queue 'q' in vhost '/' in exclusive use")));
});

test("a status without details has no reason", () => {
  const error = fromStatus(thrown(status.RESOURCE_EXHAUSTED, "too large"));
  assert(error instanceof BrokerError);
  assert.equal(error.reason, undefined);
});

test("malformed details are no details", () => {
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from([26, 200, 1, 1]));
  const error = fromStatus(Object.assign(new Error("x"), { code: status.INTERNAL, details: "x", metadata }));
  assert.equal((error as BrokerError).reason, undefined);
});

test("fields of all kinds are passed over", () => {
  const message = Buffer.from([0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1d, 1, 2, 3, 4, 0x22, 2, 65, 66, 0x22, 1, 67]);
  assert.deepEqual(fields(message, 4).map(String), ["AB", "C"]);
  for (let length = 0; length < message.length; length++) {
    fields(message.subarray(0, length), 4); // ends
  }
});

test("what another node may do better is told from what it may not", () => {
  for (const code of [status.UNAVAILABLE, status.CANCELLED, status.ABORTED, status.DEADLINE_EXCEEDED]) {
    assert(isTransient(thrown(code, "x")));
  }
  for (const code of [status.NOT_FOUND, status.UNAUTHENTICATED, status.PERMISSION_DENIED, status.FAILED_PRECONDITION, status.INVALID_ARGUMENT, status.RESOURCE_EXHAUSTED]) {
    assert(!isTransient(thrown(code, "x")));
  }
  assert(isTransient(thrown(status.INTERNAL, "Received RST_STREAM with code 2")), "a connection that broke");
  assert(!isTransient(thrown(status.INTERNAL, "internal error", "INTERNAL")), "a fault of the broker");
  assert(!isTransient(new Error("a program's fault")));
});
