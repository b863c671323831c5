"""The blocking API: the asyncio one in a thread of its own."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

import grpc

from . import _client, _publisher
from ._connection import DEFAULT_RECONNECT_DELAY, TLS
from ._consumer import DEFAULT_CREDIT, BaseConsumer, BaseDelivery, consume_start
from ._loop import run
from ._message import Message, Value
from ._proto import consuming_pb2
from ._publisher import DEFAULT_UNCONFIRMED, DEFAULT_UNCONFIRMED_BYTES
from ._topology import Binding, Exchange, PeekedMessage, Queue, QueueInfo, Status
from .errors import ClosedError, LostError, SettledError

T = TypeVar("T")
P = ParamSpec("P")


@dataclasses.dataclass
class Delivery(BaseDelivery):
    """A message in the program's hands. One of ack, requeue, fail and discard settles it, unless the consumer settles by
    itself. They raise LostError if the connection of the delivery is known to be lost: the message is delivered again."""

    def ack(self) -> None:
        """Settles it as done: the message is gone."""
        _run_if_any(self.settle(consuming_pb2.SETTLEMENT_ACK))

    def requeue(self, delay: float = 0) -> None:
        """Gives the message back to its place in the queue (a nack with requeue), after so many seconds, up to a day: until
        then nobody gets it, and it takes nothing of the consumer's credit. The delay is kept by the cluster, whatever
        becomes of this program."""
        _run_if_any(self.settle(consuming_pb2.SETTLEMENT_REQUEUE, delay))

    def fail(self, delay: float = 0) -> None:
        """Gives the message back, as requeue does, and counts a failed delivery; a queue may have a limit for those. With a
        delay it is the way to try again later."""
        _run_if_any(self.settle(consuming_pb2.SETTLEMENT_REQUEUE_FAILED, delay))

    def discard(self) -> None:
        """Settles it as one that can never be done: the message is dead-lettered or dropped (a reject)."""
        _run_if_any(self.settle(consuming_pb2.SETTLEMENT_DISCARD))

    def extend(self) -> None:
        """Says that the delivery is still being worked on: the time that it may be out, the queue's x-consumer-timeout or
        the node's, begins anew."""
        _run_if_any(self.extend_lease())


def _run_if_any(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        run(_wait_for, waiting)


async def _wait_for(waiting: Awaitable[T]) -> T:
    return await waiting


class Publisher:
    """Publishes messages in order, in batches, and tells the outcome of each. Messages that were not confirmed when a
    connection was lost are published again by another node and stored once. It is for use by many threads;
    Client.publisher makes it.
    """

    def __init__(self, publisher: _publisher.Publisher) -> None:
        self._publisher = publisher

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, message: Message, timeout: float | None = None) -> None:
        """Publishes a message and returns when it is stored by a majority of every queue's replicas. Raises UnroutableError,
        RejectedError, OutcomeUnknownError when the publisher ends meanwhile, or TimeoutError after so many seconds, when it
        may be stored or not."""
        end = None if timeout is None else time.monotonic() + timeout
        outcome = self.submit(message, timeout)
        outcome.result(None if end is None else max(0.0, end - time.monotonic()))

    def submit(self, message: Message, timeout: float | None = None) -> concurrent.futures.Future[None]:
        """Publishes a message and returns when there is room for it; raises TimeoutError if there is none for so many
        seconds. The future is its outcome, see publish. Functions that are added to it run in the SDK's own thread: they
        must not block, and cannot use this API."""
        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()
        pending = _publisher.pend(message, outcome)
        if not self._publisher.enqueue(pending):
            run(self._publisher.enqueue_with_room, pending, timeout=timeout)
        return outcome

    def flush(self, timeout: float | None = None) -> None:
        """Waits until everything that was published so far has its outcome."""
        run(self._publisher.flush, timeout=timeout)

    def close(self, timeout: float | None = None) -> None:
        """Takes nothing more, waits until everything has its outcome, and ends the publisher. What has none after so many
        seconds gets OutcomeUnknownError."""
        run(self._publisher.close, timeout=timeout)


class Consumer:
    """Receives a queue's messages. After a lost connection it goes on by another node; what was not settled comes again,
    marked as redelivered. Iterate over it, or call next or handle; several threads share the deliveries. Client.consume
    makes it.
    """

    def __init__(
        self, consumer: BaseConsumer[Delivery], inbox: SimpleQueue[Delivery | None], log: logging.Logger
    ) -> None:
        self._consumer = consumer
        self._inbox = inbox
        self._log = log

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Delivery]:
        """Yields deliveries until the consumer is closed; raises why it cannot go on."""
        while True:
            try:
                delivery = self.next()
            except ClosedError:
                return
            yield delivery

    @property
    def queue(self) -> str:
        """The name of the queue: of a temporary one, the present."""
        return self._consumer.queue

    def next(self, timeout: float | None = None) -> Delivery:
        """Waits for a delivery. Raises ClosedError after close, why the consumer cannot go on, or TimeoutError if none comes
        for so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                delivery = self._inbox.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except Empty:
                raise TimeoutError from None
            if self._consumer.accept(delivery):
                return delivery

    def handle(self, handler: Callable[[Delivery], Any], workers: int = 1) -> None:
        """Runs a function for each message, in so many threads (in the caller's if it is one), until the consumer is stopped
        or closed; raises why it cannot go on. A message whose handler returns is settled as done, one whose handler raises
        as failed."""
        if workers <= 1:
            self._handle(handler)
            return
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            works = [pool.submit(self._handle, handler) for _ in range(workers)]
            for work in works:
                work.result()

    def _handle(self, handler: Callable[[Delivery], Any]) -> None:
        for delivery in self:
            settle = delivery.ack
            try:
                handler(delivery)
            except Exception:
                self._log.warning("handler of %s failed", self.queue, exc_info=True)
                settle = delivery.fail
            try:
                settle()
            except (LostError, SettledError) as e:
                self._log.info("delivery of %s not settled: %s", self.queue, e)

    def stop(self) -> None:
        """Lets iterations, next and handle end as if the consumer were closed. What the program has in its hands can be
        settled, until close."""
        self._consumer.stop()

    def close(self) -> None:
        """Ends the consumer, once the broker has what was settled. What is not settled goes back to the queue."""
        run(self._consumer.close)


class Client:
    """Talks to a cluster. It is for use by many threads, but not across a fork.

    addresses are those of the nodes' gRPC ports (HOST:PORT, 7672 by default). The client uses one node and moves on to the
    next when that one fails: calls are repeated, publishers publish again what is not confirmed, consumers go on, and what
    the client has declared is declared again. timeout bounds every call of the client itself, in seconds; None: it waits
    until a node answers.

    user and password say who the program is; guest, the default, may come from the broker's own machine alone. A bearer
    token, if there is one, says it instead; with user=None the client's certificate does. reconnect_delay is the least and the greatest pause between attempts in
    seconds, which grows while all nodes fail. logger is told of connections lost and found; the default is named "warren".
    channel_options are options of gRPC's channels, added to those of the SDK. interceptors are those of grpc.aio, such as
    OpenTelemetry's, for all calls and streams; they run in the SDK's own thread.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        user: str | None = "guest",
        password: str = "guest",
        token: str | None = None,
        vhost: str = "/",
        tls: TLS | None = None,
        timeout: float | None = None,
        logger: logging.Logger | None = None,
        reconnect_delay: tuple[float, float] = DEFAULT_RECONNECT_DELAY,
        channel_options: Sequence[tuple[str, Any]] = (),
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._timeout = timeout
        self._log = logger or logging.getLogger("warren")

        async def make() -> _client.Client:
            return _client.Client(
                addresses,
                user=user,
                password=password,
                token=token,
                vhost=vhost,
                tls=tls,
                logger=self._log,
                reconnect_delay=reconnect_delay,
                channel_options=channel_options,
                interceptors=interceptors,
            )

        self._client = run(make)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all publishers and consumers without waiting for what is under way, and the connections. Publisher.close
        waits."""
        run(self._client.close)

    def publisher(
        self,
        *,
        producer: str | None = None,
        next_number: int = 1,
        max_unconfirmed: int = DEFAULT_UNCONFIRMED,
        max_unconfirmed_bytes: int = DEFAULT_UNCONFIRMED_BYTES,
    ) -> Publisher:
        """Makes a publisher; see warren.aio.Client.publisher for the options."""

        async def make() -> _publisher.Publisher:
            return self._client.publisher(
                producer=producer,
                next_number=next_number,
                max_unconfirmed=max_unconfirmed,
                max_unconfirmed_bytes=max_unconfirmed_bytes,
            )

        return Publisher(run(make))

    def consume(
        self,
        queue: str = "",
        *,
        temporary: bool = False,
        bindings: Sequence[Binding] = (),
        credit: int = DEFAULT_CREDIT,
        auto_settle: bool = False,
        exclusive: bool = False,
        priority: int = 0,
        tag: str = "",
    ) -> Consumer:
        """Starts a consumer and returns when it runs; see warren.aio.Client.consume for the options."""
        start = consume_start(
            queue,
            temporary=temporary,
            bindings=bindings,
            credit=credit,
            auto_settle=auto_settle,
            exclusive=exclusive,
            priority=priority,
            tag=tag,
        )

        inbox: SimpleQueue[Delivery | None] = SimpleQueue()

        async def begin() -> BaseConsumer[Delivery]:
            return await self._client.consume_into(Delivery, start, inbox)

        return Consumer(self._call(begin), inbox, self._log)

    def get(self, queue: str, *, auto_settle: bool = False) -> Delivery | None:
        """Takes one message; None when there is none. Unless it is settled by itself, the delivery must be settled; the
        message goes back if the client is closed before."""

        async def get() -> Delivery | None:
            return await self._client.get_as(Delivery, queue, auto_settle)

        return self._call(get)

    def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Value] | None = None,
    ) -> QueueInfo:
        """Makes sure that a queue is there as described, now and after every lost connection. Without a name the broker
        makes one. A durable one survives a restart of the whole cluster; auto_delete lets it go with its last consumer."""
        return self._call(
            self._client.declare_queue, name, durable=durable, auto_delete=auto_delete, arguments=arguments
        )

    def inspect_queue(self, name: str) -> QueueInfo:
        """Tells what a queue holds; raises NotFoundError when it is not there."""
        return self._call(self._client.inspect_queue, name)

    def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Removes a queue, only without consumers or only without ready messages if asked so, and returns how many ready
        messages it had. One that is not there is no error."""
        return self._call(self._client.delete_queue, name, if_unused=if_unused, if_empty=if_empty)

    def declare_exchange(
        self,
        name: str,
        type: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Value] | None = None,
    ) -> None:
        """Makes sure that an exchange is there as described, now and after every lost connection. type is direct, fanout,
        topic or headers. auto_delete lets it go with its last binding; clients cannot publish to an internal one."""
        self._call(
            self._client.declare_exchange,
            name,
            type,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=arguments,
        )

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Removes an exchange and its bindings, only without bindings if asked so. One that is not there is no error."""
        self._call(self._client.delete_exchange, name, if_unused=if_unused)

    def bind(self, binding: Binding) -> None:
        """Adds a binding, now and after every lost connection."""
        self._call(self._client.bind, binding)

    def unbind(self, binding: Binding) -> None:
        """Removes a binding. One that is not there is no error."""
        self._call(self._client.unbind, binding)

    def queues(self) -> Iterator[Queue]:
        """Yields the queues of the virtual host that the user may see, by name, with their counts."""
        return self._each(self._client.queues())

    def exchanges(self) -> Iterator[Exchange]:
        """Yields the exchanges of the virtual host that the user may see, by name."""
        return self._each(self._client.exchanges())

    def bindings(self, source: str = "", destination: str = "") -> Iterator[Binding]:
        """Yields the bindings of the virtual host that the user may see, from an exchange and to a queue or exchange; empty
        names are any."""
        return self._each(self._client.bindings(source, destination))

    def purge_queue(self, name: str) -> int:
        """Drops the ready messages of a queue and returns how many there were."""
        return self._call(self._client.purge_queue, name)

    def peek(self, queue: str, *, skip: int = 0, max_messages: int = 1, max_body_bytes: int = 0) -> list[PeekedMessage]:
        """Returns up to max_messages (at most 100) ready messages behind the first skip, without consuming them. Bodies are
        cut after max_body_bytes; 0: not at all."""
        return self._call(
            self._client.peek, queue, skip=skip, max_messages=max_messages, max_body_bytes=max_body_bytes
        )

    def status(self) -> Status:
        """Asks the node in use for what it knows of its cluster."""
        return self._call(self._client.status)

    def _call(self, method: Callable[P, Awaitable[T]], *args: P.args, **options: P.kwargs) -> T:
        async def call() -> T:
            return await method(*args, **options)

        return run(call, timeout=self._timeout)

    def _each(self, elements: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await elements.__anext__()

        while True:
            try:
                element = run(following, timeout=self._timeout)
            except StopAsyncIteration:
                return
            yield element
