"""What queues, exchanges, bindings and nodes look like to programs."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from ._message import Message, Value, get_fields, put_fields
from ._proto import admin_pb2, topology_pb2


@dataclasses.dataclass(frozen=True)
class QueueInfo:
    """A queue as it was when it was declared or inspected."""

    name: str
    messages: int
    """Ready messages."""
    consumers: int


@dataclasses.dataclass(frozen=True)
class Binding:
    """A way from an exchange to a queue or, with to_exchange, another exchange."""

    source: str
    destination: str = ""
    routing_key: str = ""
    arguments: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    """Of a headers exchange: the headers to match, and x-match."""
    to_exchange: bool = False


@dataclasses.dataclass(frozen=True)
class Exchange:
    """An exchange as it was declared."""

    name: str
    type: str
    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    arguments: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class QueueCounts:
    """What a queue holds."""

    ready: int
    ready_bytes: int
    """Of the ready messages, with their properties."""
    unsettled: int
    """Out with consumers."""
    consumers: int


@dataclasses.dataclass(frozen=True)
class Queue:
    """A queue as it was declared, with its counts."""

    name: str
    durable: bool
    auto_delete: bool
    exclusive: bool
    arguments: Mapping[str, Value]
    shard: int
    """The Raft group that holds it."""
    counts: QueueCounts | None
    """None: the queue's leader did not answer in time."""


@dataclasses.dataclass
class PeekedMessage(Message):
    """A message that stays in its queue."""

    redelivered: bool = False
    body_bytes: int = 0
    """Of the whole body, which may have been cut."""


@dataclasses.dataclass(frozen=True)
class NodeStatus:
    """A node of the cluster."""

    name: str
    number: int
    version: str
    started_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Status:
    """What a node knows of its cluster."""

    node: str
    version: str
    cluster_id: str
    current: bool
    """The node is not cut off."""
    nodes: list[NodeStatus]


def binding_to_proto(b: Binding) -> topology_pb2.Binding:
    kind = topology_pb2.DESTINATION_TYPE_EXCHANGE if b.to_exchange else topology_pb2.DESTINATION_TYPE_QUEUE
    out = topology_pb2.Binding(
        source=b.source, destination=b.destination, destination_type=kind, routing_key=b.routing_key
    )
    put_fields(out.arguments, b.arguments)
    return out


def binding_from_proto(b: topology_pb2.Binding) -> Binding:
    to_exchange = b.destination_type == topology_pb2.DESTINATION_TYPE_EXCHANGE
    return Binding(b.source, b.destination, b.routing_key, get_fields(b.arguments), to_exchange)


def exchange_from_proto(x: admin_pb2.Exchange) -> Exchange:
    return Exchange(x.name, x.type, x.durable, x.auto_delete, x.internal, get_fields(x.arguments))


def queue_from_proto(q: admin_pb2.Queue) -> Queue:
    counts = None
    if q.HasField("counts"):
        c = q.counts
        counts = QueueCounts(c.ready, c.ready_bytes, c.unsettled, c.consumers)
    return Queue(q.name, q.durable, q.auto_delete, q.exclusive, get_fields(q.arguments), q.shard, counts)


def status_from_proto(s: admin_pb2.GetStatusResponse) -> Status:
    nodes = [
        NodeStatus(n.name, n.number, n.version, datetime.datetime.fromtimestamp(n.started_at_millis / 1000, datetime.timezone.utc))
        for n in s.nodes
    ]
    return Status(s.node, s.version, s.cluster_id, s.current, nodes)
