"""The asyncio consumer, and what becomes of deliveries for both APIs."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeGuard, TypeVar

import grpc

from ._connection import Again, Connection, Node, converse, of_call, read, send
from ._message import Message, from_proto
from ._proto import consuming_pb2
from ._topology import Binding, binding_to_proto
from .errors import ClosedError, Error, LostError, Reason, SettledError, from_status

DEFAULT_CREDIT = 256

_MOST_CREDIT = (1 << 16) - 1
_MOST_DELAY = 24 * 60 * 60  # seconds
_CLOSE_TIMEOUT = 5.0  # seconds: bounds the wait for the broker when a consumer is closed


class Settler(Protocol):
    """Settles the deliveries of one stream."""

    def settle(self, tag: int, to: consuming_pb2.Settlement, delay_ms: int) -> Awaitable[None] | None:
        """Settles from any thread. What it returns, if anything, is to be awaited in the event loop."""

    def extend(self, tag: int) -> Awaitable[None] | None:
        """Begins the time anew that the delivery may be out, as settle does."""

    def is_over(self) -> bool:
        """Whether the stream has ended: the message comes again."""


@dataclasses.dataclass
class BaseDelivery(Message):
    """A message in the program's hands."""

    redelivered: bool = False
    """It was handed out before."""
    tag: int = dataclasses.field(default=0, repr=False, compare=False)
    settler: Settler | None = dataclasses.field(default=None, repr=False, compare=False)
    """None: it is settled already."""

    def settle(self, to: consuming_pb2.Settlement, delay: float = 0) -> Awaitable[None] | None:
        if not 0 <= delay <= _MOST_DELAY:
            raise ValueError(f"a delay of {delay} s is not from 0 to {_MOST_DELAY}")
        if self.settler is None:
            return None
        return self.settler.settle(self.tag, to, math.ceil(delay * 1000))  # what is not 0 is at least a millisecond

    def extend_lease(self) -> Awaitable[None] | None:
        return None if self.settler is None else self.settler.extend(self.tag)

    def is_stale(self) -> bool:
        """Whether the delivery's stream is over, so that the message comes again."""
        return self.settler is not None and self.settler.is_over()


@dataclasses.dataclass
class Delivery(BaseDelivery):
    """A message in the program's hands. One of ack, requeue, fail and discard settles it, unless the consumer settles by
    itself. They raise LostError if the connection of the delivery is known to be lost: the message is delivered again."""

    async def ack(self) -> None:
        """Settles it as done: the message is gone."""
        await _if_any(self.settle(consuming_pb2.SETTLEMENT_ACK))

    async def requeue(self, delay: float = 0) -> None:
        """Gives the message back to its place in the queue (a nack with requeue), after so many seconds, up to a day: until
        then nobody gets it, and it takes nothing of the consumer's credit. The delay is kept by the cluster, whatever
        becomes of this program."""
        await _if_any(self.settle(consuming_pb2.SETTLEMENT_REQUEUE, delay))

    async def fail(self, delay: float = 0) -> None:
        """Gives the message back, as requeue does, and counts a failed delivery; a queue may have a limit for those. With a
        delay it is the way to try again later."""
        await _if_any(self.settle(consuming_pb2.SETTLEMENT_REQUEUE_FAILED, delay))

    async def discard(self) -> None:
        """Settles it as one that can never be done: the message is dead-lettered or dropped (a reject)."""
        await _if_any(self.settle(consuming_pb2.SETTLEMENT_DISCARD))

    async def extend(self) -> None:
        """Says that the delivery is still being worked on: the time that it may be out, the queue's x-consumer-timeout or
        the node's, begins anew."""
        await _if_any(self.extend_lease())


async def _if_any(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting


D = TypeVar("D", bound=BaseDelivery)
T = TypeVar("T", contravariant=True)


def consume_start(
    queue: str,
    *,
    temporary: bool,
    bindings: Sequence[Binding],
    credit: int,
    auto_settle: bool,
    exclusive: bool,
    priority: int,
    tag: str,
) -> consuming_pb2.ConsumeStart:
    """What the broker is asked for."""
    start = consuming_pb2.ConsumeStart(
        queue=queue,
        credit=max(1, min(credit, _MOST_CREDIT)),
        auto_settle=auto_settle,
        exclusive=exclusive,
        priority=priority,
        consumer_tag=tag,
    )
    if temporary:
        start.temporary.SetInParent()
        start.temporary.bindings.extend(map(binding_to_proto, bindings))
    elif bindings:
        raise ValueError("only a temporary queue is bound by its consumer; bind binds others")
    return start


class Inbox(Protocol[T]):
    """Where deliveries wait for the program: a queue of asyncio, or one for threads."""

    def put_nowait(self, item: T) -> None: ...

    def qsize(self) -> int: ...


class BaseConsumer(Generic[D]):
    """Receives a queue's messages as deliveries of a class, in the event loop."""

    def __init__(
        self, connection: Connection, start: consuming_pb2.ConsumeStart, kind: type[D], inbox: Inbox[D | None]
    ) -> None:
        self.inbox = inbox  # deliveries; None: the end
        self._connection = connection
        self._start = start
        self._kind = kind
        self._queue = ""
        self._room = asyncio.Event()
        self._full = False  # the receiver waits for room
        self._closing = asyncio.Event()
        self._stopped = False
        self._error: Error | None = None  # set at the end
        self._started: asyncio.Future[None] = connection.loop.create_future()
        self._task = connection.start(self._work())

    @property
    def queue(self) -> str:
        """The name of the queue: of a temporary one, the present."""
        return self._queue

    async def started(self) -> None:
        """Waits until the consumer runs; raises why it cannot. If it is cancelled, the consumer is closed."""
        try:
            await asyncio.shield(self._started)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the consumer, once the broker has what was settled. What is not settled goes back to the queue."""
        self._closing.set()
        self._room.set()
        try:
            await asyncio.wait([self._task], timeout=_CLOSE_TIMEOUT)
        finally:
            self._task.cancel()
            await asyncio.wait([self._task])

    def stop(self) -> None:
        """Lets iterations, next and handle end as if the consumer were closed. What the program has in its hands can be
        settled, until close."""
        self._stopped = True
        self.inbox.put_nowait(None)

    def accept(self, delivery: D | None) -> TypeGuard[D]:
        """Looks, in the thread that took it, at what came from the inbox. False: its stream is over, and it is passed over.
        Raises the consumer's error at its end."""
        if delivery is None or self._stopped:
            self.inbox.put_nowait(None)  # for the others who wait
            raise self._error or ClosedError("the consumer is closed")
        if self._full:
            self._connection.loop.call_soon_threadsafe(self._room.set)
        return not delivery.is_stale()

    async def _work(self) -> None:
        """Consumes until the consumer is closed or cannot go on."""
        error: Error = ClosedError("the consumer is closed")
        try:
            await self._connection.stream(f"consumer of {self._start.queue}", self._run)
        except Error as e:
            if not self._closing.is_set():
                error = e
        except Exception as e:
            error = Error(f"the consumer failed: {e!r}")
            raise
        finally:
            self._error = error
            self.inbox.put_nowait(None)
            if not self._started.done():
                self._started.set_exception(error)
                self._started.exception()  # who waits gets it; nobody need

    async def _run(self, node: Node, up: Callable[[], None]) -> None:
        """Consumes by one stream."""
        if self._closing.is_set():
            raise ClosedError("the consumer is closed")
        call = node.consume(metadata=self._connection.metadata)
        try:
            await of_call(send(call, consuming_pb2.ConsumeRequest(start=self._start)))
            response = await of_call(read(call))
        except BaseException:
            call.cancel()
            raise
        if response is grpc.aio.EOF:
            raise Again
        up()
        self._queue = response.started.queue
        stream = ConsumeStream(self._connection.loop)
        if not self._started.done():
            self._started.set_result(None)
        try:
            await converse(call, self._send(call, stream), self._receive(call, stream))
        finally:
            stream.end()

    async def _send(self, call: Any, stream: ConsumeStream) -> None:
        """Sends what was settled, until the consumer closes."""
        closing = asyncio.ensure_future(self._closing.wait())
        closing.add_done_callback(lambda _: stream.wake.set())
        try:
            last = False
            while not last:
                await stream.wake.wait()
                stream.wake.clear()
                last = self._closing.is_set()
                for request in stream.take():
                    if not await send(call, request):
                        return
            await call.done_writing()
        finally:
            closing.cancel()

    async def _receive(self, call: Any, stream: ConsumeStream) -> None:
        automatic = self._start.auto_settle
        while True:
            try:
                response = await read(call)
            except grpc.aio.AioRpcError as e:
                if self._closing.is_set():
                    raise ClosedError("the consumer is closed") from None
                if from_status(e).reason is Reason.DELIVERY_TIMEOUT:
                    self._connection.log.warning(
                        "consumer of %s starts again, as a delivery was not settled in time: %s", self._queue, e.details()
                    )
                    raise Again from None
                raise
            if response is grpc.aio.EOF and self._closing.is_set():
                raise ClosedError("the consumer is closed")
            if response is grpc.aio.EOF or response.HasField("cancelled"):
                raise Again  # a queue that is gone is found out then
            for d in response.deliveries.deliveries:
                if not automatic:
                    stream.got(d.delivery_tag)
                delivery = from_proto(
                    self._kind,
                    d.message,
                    redelivered=d.redelivered,
                    tag=d.delivery_tag,
                    settler=None if automatic else stream,
                )
                await self._wait_for_room()
                if not self._closing.is_set():  # or nobody takes it
                    self.inbox.put_nowait(delivery)

    async def _wait_for_room(self) -> None:
        while self.inbox.qsize() >= self._start.credit and not self._closing.is_set():
            self._room.clear()
            self._full = True
            if self.inbox.qsize() >= self._start.credit:  # another thread may have taken one that did not see _full
                await self._room.wait()
            self._full = False


class Consumer(BaseConsumer[Delivery]):
    """Receives a queue's messages. After a lost connection it goes on by another node; what was not settled comes again,
    marked as redelivered. So it does after a delivery that was out for longer than the consumer timeout. Iterate over it, or call next or handle; several tasks share the deliveries. Client.consume
    makes it.
    """

    def __init__(self, connection: Connection, start: consuming_pb2.ConsumeStart) -> None:
        self._queued: asyncio.Queue[Delivery | None] = asyncio.Queue()
        super().__init__(connection, start, Delivery, self._queued)

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        """Yields deliveries until the consumer is closed; raises why it cannot go on."""
        while True:
            try:
                delivery = await self.next()
            except ClosedError:
                return
            yield delivery

    async def next(self) -> Delivery:
        """Waits for a delivery. Raises ClosedError after close, or why the consumer cannot go on."""
        while not self.accept(delivery := await self._queued.get()):
            pass
        return delivery

    async def handle(self, handler: Callable[[Delivery], Any], workers: int = 1) -> None:
        """Runs a function for each message, so many at a time, until the consumer is closed; raises why it cannot go on. A
        message whose handler returns is settled as done, one whose handler raises as failed. The handler may be a
        coroutine function."""
        works = [asyncio.ensure_future(self._handle(handler)) for _ in range(max(1, workers))]
        try:
            await asyncio.gather(*works)
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _handle(self, handler: Callable[[Delivery], Any]) -> None:
        log = self._connection.log
        async for delivery in self:
            settle = delivery.ack
            try:
                result = handler(delivery)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.warning("handler of %s failed", self._start.queue or self._queue, exc_info=True)
                settle = delivery.fail
            try:
                await settle()
            except (LostError, SettledError) as e:
                log.info("delivery of %s not settled: %s", self._start.queue or self._queue, e)


class ConsumeStream:
    """One stream of deliveries. It collects what is settled, by any thread, to be sent together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.wake = asyncio.Event()  # there is something to send
        self._lock = threading.Lock()  # guards what follows
        self._over = False
        self._held: collections.OrderedDict[int, None] = collections.OrderedDict()  # in the program's hands, ascending
        # Settled and not sent, in order of settling: to what, and the delay in milliseconds.
        self._changed: dict[int, tuple[consuming_pb2.Settlement, int]] = {}
        self._extended: dict[int, None] = {}  # whose time is to begin anew

    def got(self, tag: int) -> None:
        """Notes a delivery. Their tags grow."""
        with self._lock:
            self._held[tag] = None

    def settle(self, tag: int, to: consuming_pb2.Settlement, delay_ms: int = 0) -> None:
        with self._lock:
            self._check(tag)
            del self._held[tag]
            wake = self._is_idle()
            self._changed[tag] = to, delay_ms
        if wake:
            self._loop.call_soon_threadsafe(self.wake.set)

    def extend(self, tag: int) -> None:
        with self._lock:
            self._check(tag)
            wake = self._is_idle()
            self._extended[tag] = None
        if wake:
            self._loop.call_soon_threadsafe(self.wake.set)

    def _check(self, tag: int) -> None:
        """Raises why a delivery is not in the program's hands."""
        if self._over:
            raise LostError("the connection of the delivery was lost; the message is delivered again")
        if tag not in self._held:
            raise SettledError("the delivery is settled already")

    def _is_idle(self) -> bool:
        return not self._changed and not self._extended

    def is_over(self) -> bool:
        return self._over

    def end(self) -> None:
        with self._lock:
            self._over = True

    def take(self) -> list[consuming_pb2.ConsumeRequest]:
        """Turns what is to be told into requests."""
        requests = []
        with self._lock:
            if self._extended:  # first: what is settled cannot be extended
                leases = consuming_pb2.ExtendLeases(delivery_tags=list(self._extended))
                requests.append(consuming_pb2.ConsumeRequest(extend_leases=leases))
            settles = self._settles()
            if settles:
                requests.append(consuming_pb2.ConsumeRequest(settles=consuming_pb2.Settles(settles=settles)))
            self._extended.clear()
            self._changed.clear()
        return requests

    def _settles(self) -> list[consuming_pb2.Settle]:
        """What was settled, in as few settles as can be: what is done from the front on is one."""
        settles = []
        first_held = next(iter(self._held), math.inf)
        front = 0  # the last of the front that the broker does not know of
        for tag in sorted(self._changed):
            if tag > first_held or self._changed[tag][0] != consuming_pb2.SETTLEMENT_ACK:
                break
            front = tag
        if front:
            settles.append(consuming_pb2.Settle(delivery_tag=front, multiple=True, settlement=consuming_pb2.SETTLEMENT_ACK))
        for tag, (to, delay_ms) in self._changed.items():
            if tag > front:
                settles.append(consuming_pb2.Settle(delivery_tag=tag, settlement=to, delay_millis=delay_ms))
        return settles


class _GetStream:
    """A stream that holds one message."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._writing = asyncio.Lock()  # gRPC takes one write at a time
        self._settled: asyncio.Future[None] | None = None

    def settle(self, tag: int, to: consuming_pb2.Settlement, delay_ms: int) -> Awaitable[None]:
        return self._settle(consuming_pb2.Settle(delivery_tag=tag, settlement=to, delay_millis=delay_ms))

    async def extend(self, tag: int) -> None:
        if self._settled is not None:
            raise SettledError("the delivery is settled already")
        leases = consuming_pb2.ExtendLeases(delivery_tags=[tag])
        async with self._writing:
            if not await of_call(send(self._call, consuming_pb2.GetRequest(extend_leases=leases))):
                raise LostError("the connection of the delivery was lost; the message is delivered again")

    def is_over(self) -> bool:
        return False

    async def _settle(self, settle: consuming_pb2.Settle) -> None:
        """Settles the message and waits until the broker has done so. Whoever comes later gets the same answer."""
        if self._settled is None:
            self._settled = asyncio.ensure_future(self._finish(settle))
        await asyncio.shield(self._settled)

    async def _finish(self, settle: consuming_pb2.Settle) -> None:
        try:
            async with self._writing:
                await self._call.write(consuming_pb2.GetRequest(settle=settle))
                await finish(self._call)
        except grpc.aio.AioRpcError as e:
            raise LostError(f"whether the delivery was settled is not known: {e.details()}") from from_status(e)
        except (asyncio.InvalidStateError, asyncio.CancelledError):  # the call is over
            raise LostError("the connection of the delivery was lost; the message is delivered again") from None


async def finish(call: Any) -> None:
    """Half-closes and waits for the end."""
    await call.done_writing()
    await read(call)


async def _end(call: Any) -> None:
    """Finishes a call that has been answered: how it ends does not matter any more, as a repetition would be another get."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, ClosedError):
        await of_call(finish(call))


async def get(node: Node, metadata: Any, queue: str, auto_settle: bool, kind: type[D]) -> D | None:
    """Takes one message; None: there is none."""
    call = node.get(metadata=metadata)
    try:
        fetch = consuming_pb2.Fetch(queue=queue, auto_settle=auto_settle)
        await of_call(send(call, consuming_pb2.GetRequest(fetch=fetch)))
        response = await of_call(read(call))
        if response is grpc.aio.EOF:
            return None
        if not response.HasField("delivery"):
            await _end(call)
            return None
        d = response.delivery
        settler = None if auto_settle else _GetStream(call)
        delivery = from_proto(kind, d.message, redelivered=d.redelivered, tag=d.delivery_tag, settler=settler)
        if auto_settle:
            await _end(call)
        return delivery
    except BaseException:
        call.cancel()
        raise
