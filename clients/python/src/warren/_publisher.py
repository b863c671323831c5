"""The asyncio publisher."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any, Union

import grpc
from google.protobuf.message import EncodeError

from ._connection import Again, Connection, Node, converse, read, send
from ._message import Message, to_proto
from ._proto import message_pb2, publishing_pb2
from .errors import ClosedError, Error, OutcomeError, OutcomeUnknownError, RejectedError, UnroutableError, is_too_large, reason_of

DEFAULT_UNCONFIRMED = 4096
DEFAULT_UNCONFIRMED_BYTES = 16 << 20

_MOST_UNCONFIRMED = 16_000  # the broker takes numbers that are less than 16,384 apart
# What a batch holds at most; a message that is larger is alone in its batch.
_BATCH_BYTES = 128 << 10
_BATCH_MESSAGES = 1024
_MESSAGE_OVERHEAD = 64  # at least what a message costs beside what it is encoded as, in bytes
_LEAST_LIMIT = 4 << 20  # a node takes requests of that size, however it is configured

Outcome = Union["asyncio.Future[None]", "concurrent.futures.Future[None]"]


@dataclasses.dataclass
class Pending:
    """A message on its way."""

    message: message_pb2.Message
    outcome: Outcome
    size: int


def pend(message: Message, outcome: Outcome) -> Pending:
    """Raises TypeError or ValueError for a message that cannot be sent."""
    converted = to_proto(message)
    try:
        size = converted.ByteSize()
    except EncodeError as e:
        raise ValueError(f"the message cannot be encoded: {e}") from None
    return Pending(converted, outcome, size + _MESSAGE_OVERHEAD)


class Publisher:
    """Publishes messages in order, in batches, and tells the outcome of each. Messages that were not confirmed when a
    connection was lost are published again by another node and stored once. It is for use by many tasks; Client.publisher
    makes it.
    """

    def __init__(
        self, connection: Connection, producer: str | None, next_number: int, max_unconfirmed: int, max_bytes: int
    ) -> None:
        producer = secrets.token_hex(16) if producer is None else producer
        if not producer or next_number < 1:
            raise ValueError("a producer needs a name, and numbers from 1 on")
        self._start = publishing_pb2.PublishStart(producer_id=producer)
        self._connection = connection
        self._max_unconfirmed = min(max_unconfirmed, _MOST_UNCONFIRMED)
        self._max_bytes = max_bytes
        self._wake = asyncio.Event()  # there is something to send
        self._waiters: list[asyncio.Future[None]] = []  # for a change

        # Threads of the blocking API enqueue by themselves. The lock guards what follows.
        self._lock = threading.Lock()
        self._pending: dict[int, Pending] = {}  # by number: what has no outcome
        self._first = next_number  # the lowest number that has no outcome
        self._next = next_number  # the number after the last
        self._unsent = next_number  # the lowest number that has not been sent on the present stream
        self._bytes = 0  # of what has no outcome
        self._closing = False  # nothing more is taken
        self._error: Error | None = None  # why nothing more is sent

        self._task = connection.start(self._work())

    async def __aenter__(self) -> Publisher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def publish(self, message: Message) -> None:
        """Publishes a message and returns when it is stored by a majority of every queue's replicas. Raises UnroutableError,
        RejectedError, or OutcomeUnknownError when the publisher ends meanwhile."""
        await (await self.submit(message))

    async def submit(self, message: Message) -> asyncio.Future[None]:
        """Publishes a message and returns when there is room for it. The future is its outcome, see publish; one that
        fails and is never looked at is told by asyncio's log."""
        outcome: asyncio.Future[None] = self._connection.loop.create_future()
        await self.enqueue_with_room(pend(message, outcome))
        if self._next - self._unsent >= _BATCH_MESSAGES:
            await asyncio.sleep(0)  # a program that only publishes lets the others run
        return outcome

    async def flush(self) -> None:
        """Waits until everything that was published so far has its outcome."""
        last = self._next
        while self._first < last:
            if self._error is not None:
                raise self._error
            await self._change()

    async def close(self) -> None:
        """Takes nothing more, waits until everything has its outcome, and ends the publisher. If it is cancelled, what has
        none gets OutcomeUnknownError."""
        with self._lock:
            self._closing = True
        self._tell()
        try:
            await self.flush()
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def enqueue_with_room(self, pending: Pending) -> None:
        """Takes a message as soon as there is room."""
        while not self.enqueue(pending):
            await self._change()

    def enqueue(self, pending: Pending) -> bool:
        """Takes a message if there is room, from any thread."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise ClosedError("the publisher is closed")
            if self._next - self._first >= self._max_unconfirmed or self._bytes >= self._max_bytes:
                return False
            self._pending[self._next] = pending
            self._next += 1
            self._bytes += pending.size
            wake = self._unsent == self._next - 1
        if wake:
            self._connection.loop.call_soon_threadsafe(self._wake.set)
        return True

    def _change(self) -> asyncio.Future[None]:
        """Is done when outcomes have come, or at the end."""
        waiter = self._connection.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _work(self) -> None:
        """Sends until the publisher is closed or cannot go on."""
        error: Error = ClosedError("the publisher is closed")
        try:
            await self._connection.stream("publisher", self._run)
        except Error as e:
            error = e
        except Exception as e:
            error = Error(f"the publisher failed: {e!r}")
            raise
        finally:
            with self._lock:
                self._error = error
                left = list(self._pending.values())
                self._pending.clear()
            for pending in left:
                unknown = OutcomeUnknownError(f"the message's outcome is not known: {error}")
                unknown.__cause__ = error
                _settle(pending.outcome, unknown)
            self._tell()

    async def _run(self, node: Node, up: Callable[[], None]) -> None:
        """Sends on one stream."""
        await self._wait_for_work()
        call = node.publish(metadata=self._connection.metadata)
        with self._lock:
            self._unsent = self._first
        try:
            await converse(call, self._send(call), self._receive(call, up))
        except grpc.aio.AioRpcError as e:
            if not is_too_large(e) or not self._reject_largest(e.details()):
                raise
            up()
            raise Again from None

    async def _wait_for_work(self) -> None:
        """Waits until there is something to send: an idle publisher needs no stream."""
        while self._first == self._next:
            self._wake.clear()
            await self._wake.wait()

    async def _send(self, call: Any) -> None:
        sending = await send(call, publishing_pb2.PublishRequest(start=self._start))
        while sending:
            self._wake.clear()
            while sending and (batch := self._fill()) is not None:
                sending = await send(call, publishing_pb2.PublishRequest(batch=batch))
            if sending:
                await self._wake.wait()

    def _fill(self) -> publishing_pb2.PublishBatch | None:
        """Takes the next messages to send, with consecutive numbers."""
        messages: list[message_pb2.Message] = []
        with self._lock:
            number = max(self._unsent, self._first)
            while number < self._next and number not in self._pending:  # its outcome came out of turn
                number += 1
            batch = publishing_pb2.PublishBatch(first_sequence=number, lowest_unconfirmed=self._first)
            size = 0
            while len(messages) < _BATCH_MESSAGES and (pending := self._pending.get(number)) is not None:
                size += pending.size
                if messages and size > _BATCH_BYTES:
                    break
                messages.append(pending.message)
                number += 1
            self._unsent = number
        batch.messages.extend(messages)
        return batch if messages else None

    async def _receive(self, call: Any, up: Callable[[], None]) -> None:
        """Takes outcomes until the stream ends."""
        while True:
            response = await read(call)
            if response is grpc.aio.EOF:
                raise Again
            if response.HasField("confirms"):
                up()
                self._settle(response.confirms.confirms)
            elif response.blocked.reason:
                self._connection.log.warning("publishers are blocked: %s", response.blocked.reason)
            else:
                self._connection.log.info("publishers are not blocked any more")

    def _settle(self, confirms: Iterable[publishing_pb2.Confirm]) -> None:
        """Notes outcomes and tells them."""
        told: list[tuple[Outcome, publishing_pb2.Confirm]] = []
        with self._lock:
            for c in confirms:
                for number in range(max(c.first_sequence, self._first), min(c.last_sequence + 1, self._next)):
                    pending = self._pending.pop(number, None)
                    if pending is not None:
                        self._bytes -= pending.size
                        told.append((pending.outcome, c))
            while self._first < self._next and self._first not in self._pending:
                self._first += 1
        for outcome, c in told:
            _settle(outcome, _error_of(c))
        self._tell()

    def _reject_largest(self, text: str) -> bool:
        """Rejects the largest message that was sent on the present stream, which the node has ended since a request was too
        large: that message was too large if any was. False: none of them can have been."""
        with self._lock:
            sent = [n for n, pending in self._pending.items() if n < self._unsent and pending.size > _LEAST_LIMIT]
            if not sent:
                return False
            number = max(sent, key=lambda n: self._pending[n].size)
        self._settle(
            [
                publishing_pb2.Confirm(
                    first_sequence=number,
                    last_sequence=number,
                    outcome=publishing_pb2.OUTCOME_REJECTED,
                    reason=message_pb2.ERROR_REASON_PRECONDITION_FAILED,
                    detail=text,
                )
            ]
        )
        return True


def _settle(outcome: Outcome, error: OutcomeError | None) -> None:
    if outcome.done():  # the program does not want to know any more
        return
    if error is None:
        outcome.set_result(None)
    else:
        outcome.set_exception(error)


def _error_of(c: publishing_pb2.Confirm) -> OutcomeError | None:
    if c.outcome == publishing_pb2.OUTCOME_CONFIRMED:
        return None
    if c.outcome == publishing_pb2.OUTCOME_UNROUTABLE:
        return UnroutableError("no queue is bound for the message")
    return RejectedError(reason_of(c.reason), c.detail)
