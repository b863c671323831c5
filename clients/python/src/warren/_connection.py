"""The connection to a cluster: which node is in use, when to move on to the next, and what to declare again then."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from ._proto import admin_pb2, consuming_pb2, publishing_pb2, topology_pb2
from .errors import ClosedError, from_status, is_locked, is_transient

T = TypeVar("T")

DEFAULT_RECONNECT_DELAY = (0.05, 2.0)

_PING_EVERY_MS = 10_000
_PING_TIMEOUT_MS = 5_000
_CONNECT_TIMEOUT_MS = 3_000
_RESOLVE_EVERY_MS = 1_000
_STREAM_WINDOW = 4 << 20
# For how long, in seconds, a queue may be locked by what was its consumer's own connection: the cluster takes a minute to
# give up one of a node that is silent.
_LOCKED_FOR = 120.0


@dataclasses.dataclass(frozen=True)
class TLS:
    """Files in PEM for connections over TLS. A client's certificate that the nodes' authorities have signed can stand for a
    user and password (give the client user=None): its common name is the user."""

    ca_file: str | None = None
    """Whom to trust; None: gRPC's own list of authorities."""
    certificate_file: str | None = None
    key_file: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("a certificate and its key belong together")
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.certificate_file))


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def open_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    options: Sequence[tuple[str, Any]],
    interceptors: Sequence[grpc.aio.ClientInterceptor],
) -> grpc.aio.Channel:
    """Makes the channel of a node; it connects when it is used."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)


class Node:
    """A node's channel, and the methods that it can be asked for."""

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.channel = channel

        def method(kind: Any, name: str, response: Any) -> Any:
            return kind(
                "/warren.broker.v1." + name,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=response.FromString,
            )

        unary, stream = channel.unary_unary, channel.stream_stream
        self.publish = method(stream, "PublishingService/Publish", publishing_pb2.PublishResponse)
        self.consume = method(stream, "ConsumingService/Consume", consuming_pb2.ConsumeResponse)
        self.get = method(stream, "ConsumingService/Get", consuming_pb2.GetResponse)
        self.declare_queue = method(unary, "TopologyService/DeclareQueue", topology_pb2.DeclareQueueResponse)
        self.delete_queue = method(unary, "TopologyService/DeleteQueue", topology_pb2.DeleteQueueResponse)
        self.declare_exchange = method(unary, "TopologyService/DeclareExchange", topology_pb2.DeclareExchangeResponse)
        self.delete_exchange = method(unary, "TopologyService/DeleteExchange", topology_pb2.DeleteExchangeResponse)
        self.bind = method(unary, "TopologyService/Bind", topology_pb2.BindResponse)
        self.unbind = method(unary, "TopologyService/Unbind", topology_pb2.UnbindResponse)
        self.list_queues = method(unary, "AdminService/ListQueues", admin_pb2.ListQueuesResponse)
        self.list_exchanges = method(unary, "AdminService/ListExchanges", admin_pb2.ListExchangesResponse)
        self.list_bindings = method(unary, "AdminService/ListBindings", admin_pb2.ListBindingsResponse)
        self.purge_queue = method(unary, "AdminService/PurgeQueue", admin_pb2.PurgeQueueResponse)
        self.peek_queue = method(unary, "AdminService/PeekQueue", admin_pb2.PeekQueueResponse)
        self.get_status = method(unary, "AdminService/GetStatus", admin_pb2.GetStatusResponse)


class Again(Exception):
    """Asks for another stream although nothing is wrong with the node."""


Declare = Callable[[Node], Awaitable[Any]]


class Connection:
    """A cluster, by one node at a time. It belongs to the event loop that it was made in."""

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        user: str | None,
        password: str,
        token: str | None,
        vhost: str,
        tls: TLS | None,
        logger: logging.Logger,
        reconnect_delay: tuple[float, float],
        channel_options: Sequence[tuple[str, Any]],
        interceptors: Sequence[grpc.aio.ClientInterceptor],
    ) -> None:
        addresses = [addresses] if isinstance(addresses, str) else list(addresses)
        if not addresses:
            raise ValueError("no addresses")
        self.loop = asyncio.get_running_loop()
        self.log = logger
        self._metadata = [("warren-vhost", vhost)]
        if token is not None:
            self._metadata.append(("authorization", "Bearer " + token))
        elif user is not None:
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._metadata.append(("authorization", "Basic " + login))
        self.min_delay, self.max_delay = reconnect_delay
        credentials = tls.credentials() if tls else None
        options = [*self._channel_options(), *channel_options]
        self.nodes = [Node(a, open_channel(a, credentials, options, list(interceptors))) for a in addresses]
        self.closing = asyncio.Event()
        self._current = 0  # of nodes: the one in use
        self._generation = 0  # counts the changes of _current, and of the connection to it
        self._restored = 0  # the generation for which the topology has been declared again
        self._declared: dict[Any, Declare] = {}  # by what it is, in the order of declaration
        self._works: set[asyncio.Task[None]] = set()  # publishers and consumers

    def _channel_options(self) -> list[tuple[str, Any]]:
        least, most = int(self.min_delay * 1000), int(self.max_delay * 1000)
        return [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.keepalive_time_ms", _PING_EVERY_MS),
            ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_time_between_pings_ms", _PING_EVERY_MS),
            ("grpc.initial_reconnect_backoff_ms", least),
            ("grpc.max_reconnect_backoff_ms", most),
            ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_MS),  # it bounds an attempt to connect
            ("grpc.dns_min_time_between_resolutions_ms", _RESOLVE_EVERY_MS),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _STREAM_WINDOW),
            ("grpc.use_local_subchannel_pool", 1),  # clients share no connections
            ("grpc.enable_http_proxy", 0),
            ("grpc.service_config_disable_resolution", 1),
        ]

    @property
    def metadata(self) -> grpc.aio.Metadata:
        """What goes with a call: for each its own, as interceptors may add to it."""
        return grpc.aio.Metadata(*self._metadata)

    @property
    def closed(self) -> bool:
        return self.closing.is_set()

    async def close(self) -> None:
        """Ends all publishers and consumers without waiting for what is under way, and the channels."""
        self.closing.set()
        works = list(self._works)
        for work in works:
            work.cancel()
        if works:
            await asyncio.wait(works)
        for node in self.nodes:
            await node.channel.close()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs the work of a publisher or consumer."""
        if self.closed:
            work.close()
            raise ClosedError("the client is closed")
        task = self.loop.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        return task

    def node(self) -> tuple[Node, int]:
        """The node in use, and the generation."""
        return self.nodes[self._current], self._generation

    def lost(self, generation: int, status: grpc.aio.AioRpcError) -> None:
        """Tells that a call failed in a way that another node may do better. Only the first to tell of a generation counts."""
        if generation != self._generation:
            return
        before = self.nodes[self._current].address
        self._generation += 1
        self._current = (self._current + 1) % len(self.nodes)
        self.log.warning(
            "node %s does not serve (%s: %s); trying %s",
            before,
            status.code().name,
            status.details(),
            self.nodes[self._current].address,
        )

    async def call(self, f: Callable[[Node], Awaitable[T]]) -> T:
        """Makes a call that may be repeated, on one node after the other until one answers."""
        attempts = Attempts(self)
        while True:
            if self.closed:
                raise ClosedError("the client is closed")
            node, generation = self.node()
            try:
                return await f(node)
            except grpc.aio.AioRpcError as e:
                if not is_transient(e):
                    raise from_status(e) from None
                self.lost(generation, e)
            except grpc.aio.UsageError:
                if not self.closed:
                    raise
                raise ClosedError("the client is closed") from None
            await attempts.wait()

    async def stream(self, what: str, run: Callable[[Node, Callable[[], None]], Awaitable[None]]) -> None:
        """Uses a stream, and another one whenever it ends for a reason that another node may not have. run opens and uses it,
        calls its second argument when the node has answered, and always raises; it is judged by what. stream itself raises
        an error that does not pass. That a queue is locked passes, once the node had answered: it may be by the stream
        before, whose node is silent."""
        attempts = Attempts(self)
        while True:
            node, generation = self.node()
            try:
                await self._restore(node, generation)
                await run(node, attempts.succeeded)
            except Again:
                self.log.info("%s: stream is opened again", what)
            except grpc.aio.AioRpcError as e:
                if is_transient(e):
                    attempts.not_locked()
                    self.lost(generation, e)
                elif not is_locked(e) or not attempts.may_be_locked(what, e):
                    raise from_status(e) from None
            await attempts.wait()

    def remember(self, key: Any, declare: Declare) -> None:
        """Notes something that was declared, to be declared again by declare."""
        self._declared.pop(key, None)
        self._declared[key] = declare

    def forget(self, gone: Callable[[Any], bool]) -> None:
        """Drops what was deleted."""
        self._declared = {key: declare for key, declare in self._declared.items() if not gone(key)}

    async def _restore(self, node: Node, generation: int) -> None:
        """Declares everything again after a connection was lost, once for each."""
        if self._restored >= generation:
            return
        for key, declare in list(self._declared.items()):
            try:
                await declare(node)
            except grpc.aio.AioRpcError as e:
                if is_transient(e):
                    raise
                self.log.warning("%s cannot be declared again: %s", key, e.details())
        self._restored = max(self._restored, generation)


class Attempts:
    """The pauses between attempts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failed = 0
        self._had_succeeded = False
        self._locked_since: float | None = None  # of the loop's time; None: not since it succeeded

    def succeeded(self) -> None:
        self._failed = 0
        self._had_succeeded = True
        self._locked_since = None

    def not_locked(self) -> None:
        """Something else is in the way: while the cluster cannot decide anything, no lock passes."""
        self._locked_since = None

    def may_be_locked(self, what: str, status: grpc.aio.AioRpcError) -> bool:
        """Whether a lock may be one of the program's own, and not be given up yet."""
        if not self._had_succeeded:
            return False
        now = self._connection.loop.time()
        if self._locked_since is None:
            self._locked_since = now
            self._connection.log.info("%s: locked, it may be by the connection before: %s", what, status.details())
        return now - self._locked_since < _LOCKED_FOR

    async def wait(self) -> None:
        """Pauses, longer with each failure in a row once every node had its turn. Raises ClosedError at the client's end."""
        c = self._connection
        self._failed += 1
        rounds = self._failed - len(c.nodes)
        if rounds < 0:
            return
        delay = min(c.max_delay, c.min_delay * 2 ** min(rounds, 16))
        try:
            await asyncio.wait_for(c.closing.wait(), delay / 2 + random.random() * delay / 2)
        except asyncio.TimeoutError:
            return
        raise ClosedError("the client is closed")


async def of_call(waiting: Awaitable[T]) -> T:
    """Awaits a call of gRPC, or one of its reads or writes, in a task of its own: when gRPC sees a cancellation it may raise
    how the call has ended instead, and whoever was cancelled would go on."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody is interested
        task.cancel()
        raise
    if task.cancelled():  # with the channel
        raise ClosedError("the client is closed")
    return task.result()


async def converse(call: Any, sender: Coroutine[Any, Any, None], receiver: Coroutine[Any, Any, None]) -> None:
    """Runs both directions of a stream, until the receiver raises why it has ended. The sender's end alone means nothing:
    what it cannot send for, the receiver learns."""
    sending, receiving = tasks = [asyncio.create_task(sender), asyncio.create_task(receiver)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
            await asyncio.wait([receiving])  # and not for its result: see of_call
        receiving.result()
    finally:
        for task in tasks:
            task.cancel()
        call.cancel()
        # A call with interceptors has a task of its own, which waits for what is written.
        await asyncio.gather(*tasks, call.done_writing(), return_exceptions=True)


async def read(call: Any) -> Any:
    """Reads a response, or EOF."""
    try:
        return await call.read()
    except StopAsyncIteration:  # what the end is for a call with interceptors, before grpcio has mended it
        return grpc.aio.EOF


async def send(call: Any, request: Any) -> bool:
    """Sends a request; False: the stream has ended, and its receiver says why."""
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return not call.done()  # gRPC may have taken a cancellation for success
