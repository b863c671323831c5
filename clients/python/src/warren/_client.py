"""The asyncio client."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import grpc

from ._connection import DEFAULT_RECONNECT_DELAY, TLS, Connection, Node, of_call
from ._consumer import DEFAULT_CREDIT, BaseConsumer, BaseDelivery, Consumer, Delivery, Inbox, consume_start, get
from ._message import Value, from_proto, put_fields
from ._proto import admin_pb2, consuming_pb2, topology_pb2
from ._publisher import DEFAULT_UNCONFIRMED, DEFAULT_UNCONFIRMED_BYTES, Publisher
from ._topology import (
    Binding,
    Exchange,
    PeekedMessage,
    Queue,
    QueueInfo,
    Status,
    binding_from_proto,
    binding_to_proto,
    exchange_from_proto,
    queue_from_proto,
    status_from_proto,
)

T = TypeVar("T")
D = TypeVar("D", bound=BaseDelivery)

_RESERVED = "amq."  # how the names begin that the broker makes, and that nobody may declare


class Client:
    """Talks to a cluster, in the event loop that it is made in. It is for use by many tasks.

    addresses are those of the nodes' gRPC ports (HOST:PORT, 7672 by default). The client uses one node and moves on to the
    next when that one fails: calls are repeated, publishers publish again what is not confirmed, consumers go on, and what
    the client has declared is declared again. No call has a time limit of its own; use asyncio.timeout.

    user and password say who the program is; guest, the default, may come from the broker's own machine alone. A bearer
    token, if there is one, says it instead; with user=None the client's certificate does. reconnect_delay is the least and the greatest pause between attempts in
    seconds, which grows while all nodes fail. logger is told of connections lost and found; the default is named "warren".
    channel_options are options of gRPC's channels, added to those of the SDK. interceptors are those of grpc.aio, such as
    OpenTelemetry's, for all calls and streams.
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
        logger: logging.Logger | None = None,
        reconnect_delay: tuple[float, float] = DEFAULT_RECONNECT_DELAY,
        channel_options: Sequence[tuple[str, Any]] = (),
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._connection = Connection(
            addresses,
            user=user,
            password=password,
            token=token,
            vhost=vhost,
            tls=tls,
            logger=logger or logging.getLogger("warren"),
            reconnect_delay=reconnect_delay,
            channel_options=channel_options,
            interceptors=interceptors,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all publishers and consumers without waiting for what is under way, and the connections. Publisher.close
        waits."""
        await self._connection.close()

    def publisher(
        self,
        *,
        producer: str | None = None,
        next_number: int = 1,
        max_unconfirmed: int = DEFAULT_UNCONFIRMED,
        max_unconfirmed_bytes: int = DEFAULT_UNCONFIRMED_BYTES,
    ) -> Publisher:
        """Makes a publisher. max_unconfirmed (at most 16,000) and max_unconfirmed_bytes, headers included, bound what may be on its
        way; beyond, publishing waits.

        producer names the publisher's series of messages instead of a random name, and next_number is the number of the
        next message: number n of a producer must always be the same message, also when the program runs again, such as the
        offset in what it reads from. A program that runs again begins with the first message that it has not seen
        confirmed; numbers below that are rejected with reason REFUSED. The broker forgets a producer after an hour without
        messages, or before when 16,384 others came later to the same shard."""
        return Publisher(self._connection, producer, next_number, max_unconfirmed, max_unconfirmed_bytes)

    async def consume(
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
        """Starts a consumer and returns when it runs.

        temporary makes the queue for the consumer alone, with these bindings (whose destination does not count). It goes
        with the consumer; after a lost connection it is another, and what was in it is gone. Without a name the broker
        makes one. credit bounds how many deliveries may be unsettled: 1 is fair dispatch between slow workers. auto_settle
        counts deliveries as settled when they are sent: those on their way are lost with the connection. exclusive lets
        nobody else consume the queue. Of the consumers that can take a message, those of the highest priority get it. tag
        names the consumer in listings."""
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
        consumer = Consumer(self._connection, start)
        await consumer.started()
        return consumer

    async def consume_into(
        self, kind: type[D], start: consuming_pb2.ConsumeStart, inbox: Inbox[D | None]
    ) -> BaseConsumer[D]:
        """Starts a consumer whose deliveries are of a class and go into an inbox."""
        consumer = BaseConsumer(self._connection, start, kind, inbox)
        await consumer.started()
        return consumer

    async def get(self, queue: str, *, auto_settle: bool = False) -> Delivery | None:
        """Takes one message; None when there is none. Unless it is settled by itself, the delivery must be settled; the
        message goes back if the client is closed before."""
        return await self.get_as(Delivery, queue, auto_settle)

    async def get_as(self, kind: type[D], queue: str, auto_settle: bool) -> D | None:
        """Takes one message as a delivery of a class."""
        c = self._connection
        return await c.call(lambda node: get(node, c.metadata, queue, auto_settle, kind))

    # The topology: now and after every lost connection.

    async def declare_queue(
        self,
        name: str = "",
        *,
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Value] | None = None,
    ) -> QueueInfo:
        """Makes sure that a queue is there as described, now and after every lost connection. Without a name the broker
        makes one. A durable one survives a restart of the whole cluster; auto_delete lets it go with its last consumer."""
        request = topology_pb2.DeclareQueueRequest(name=name, durable=durable, auto_delete=auto_delete)
        put_fields(request.arguments, arguments or {})
        response = await self._ask(lambda node: node.declare_queue, request)
        if not response.name.startswith(_RESERVED):
            self._remember(("queue", response.name), lambda node: node.declare_queue, request)
        return QueueInfo(response.name, response.messages, response.consumers)

    async def inspect_queue(self, name: str) -> QueueInfo:
        """Tells what a queue holds; raises NotFoundError when it is not there."""
        request = topology_pb2.DeclareQueueRequest(name=name, passive=True)
        response = await self._ask(lambda node: node.declare_queue, request)
        return QueueInfo(response.name, response.messages, response.consumers)

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Removes a queue, only without consumers or only without ready messages if asked so, and returns how many ready
        messages it had. One that is not there is no error."""
        request = topology_pb2.DeleteQueueRequest(name=name, if_unused=if_unused, if_empty=if_empty)
        response = await self._ask(lambda node: node.delete_queue, request)
        self._connection.forget(lambda key: bool(key == ("queue", name)) or _is_binding(key, destination=(False, name)))
        return int(response.messages)

    async def declare_exchange(
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
        request = topology_pb2.DeclareExchangeRequest(
            name=name, type=type, durable=durable, auto_delete=auto_delete, internal=internal
        )
        put_fields(request.arguments, arguments or {})
        await self._ask(lambda node: node.declare_exchange, request)
        self._remember(("exchange", name), lambda node: node.declare_exchange, request)

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Removes an exchange and its bindings, only without bindings if asked so. One that is not there is no error."""
        await self._ask(lambda node: node.delete_exchange, topology_pb2.DeleteExchangeRequest(name=name, if_unused=if_unused))
        self._connection.forget(
            lambda key: bool(key == ("exchange", name))
            or _is_binding(key, source=name)
            or _is_binding(key, destination=(True, name))
        )

    async def bind(self, binding: Binding) -> None:
        """Adds a binding, now and after every lost connection."""
        request = topology_pb2.BindRequest(binding=binding_to_proto(binding))
        await self._ask(lambda node: node.bind, request)
        self._remember(_binding_key(request.binding, binding), lambda node: node.bind, request)

    async def unbind(self, binding: Binding) -> None:
        """Removes a binding. One that is not there is no error."""
        request = topology_pb2.UnbindRequest(binding=binding_to_proto(binding))
        await self._ask(lambda node: node.unbind, request)
        gone = _binding_key(request.binding, binding)
        self._connection.forget(lambda key: bool(key == gone))

    # What there is.

    def queues(self) -> AsyncIterator[Queue]:
        """Yields the queues of the virtual host that the user may see, by name, with their counts."""
        return self._pages(
            lambda node: node.list_queues, admin_pb2.ListQueuesRequest(), lambda r: map(queue_from_proto, r.queues)
        )

    def exchanges(self) -> AsyncIterator[Exchange]:
        """Yields the exchanges of the virtual host that the user may see, by name."""
        return self._pages(
            lambda node: node.list_exchanges,
            admin_pb2.ListExchangesRequest(),
            lambda r: map(exchange_from_proto, r.exchanges),
        )

    def bindings(self, source: str = "", destination: str = "") -> AsyncIterator[Binding]:
        """Yields the bindings of the virtual host that the user may see, from an exchange and to a queue or exchange; empty
        names are any."""
        return self._pages(
            lambda node: node.list_bindings,
            admin_pb2.ListBindingsRequest(source=source, destination=destination),
            lambda r: map(binding_from_proto, r.bindings),
        )

    async def purge_queue(self, name: str) -> int:
        """Drops the ready messages of a queue and returns how many there were."""
        response = await self._ask(lambda node: node.purge_queue, admin_pb2.PurgeQueueRequest(name=name))
        return int(response.messages)

    async def peek(
        self, queue: str, *, skip: int = 0, max_messages: int = 1, max_body_bytes: int = 0
    ) -> list[PeekedMessage]:
        """Returns up to max_messages (at most 100) ready messages behind the first skip, without consuming them. Bodies are
        cut after max_body_bytes; 0: not at all."""
        request = admin_pb2.PeekQueueRequest(
            name=queue, skip=skip, max_messages=max_messages, max_body_bytes=max_body_bytes
        )
        response = await self._ask(lambda node: node.peek_queue, request)
        return [
            from_proto(PeekedMessage, m.message, redelivered=m.redelivered, body_bytes=m.body_bytes)
            for m in response.messages
        ]

    async def status(self) -> Status:
        """Asks the node in use for what it knows of its cluster."""
        return status_from_proto(await self._ask(lambda node: node.get_status, admin_pb2.GetStatusRequest()))

    async def _ask(self, method: Callable[[Node], Any], request: Any) -> Any:
        """Makes a call with one answer."""

        async def ask(node: Node) -> Any:
            return await of_call(method(node)(request, metadata=self._connection.metadata))

        return await self._connection.call(ask)

    def _remember(self, key: Any, method: Callable[[Node], Any], request: Any) -> None:
        def declare(node: Node) -> Awaitable[Any]:
            return of_call(method(node)(request, metadata=self._connection.metadata))

        self._connection.remember(key, declare)

    async def _pages(
        self, method: Callable[[Node], Any], request: Any, elements: Callable[[Any], Iterable[T]]
    ) -> AsyncIterator[T]:
        """Yields the elements of a list that comes in pages."""
        while True:
            response = await self._ask(method, request)
            for element in elements(response):
                yield element
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


def _binding_key(bound: topology_pb2.Binding, b: Binding) -> Any:
    arguments = tuple(sorted((key, value.SerializeToString()) for key, value in bound.arguments.items()))
    return ("binding", b.source, (b.to_exchange, b.destination), b.routing_key, arguments)


def _is_binding(key: Any, source: str | None = None, destination: tuple[bool, str] | None = None) -> bool:
    return bool(key[0] == "binding" and (key[1] == source or key[2] == destination))
