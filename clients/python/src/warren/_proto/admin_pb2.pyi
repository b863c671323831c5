from . import message_pb2 as _message_pb2
from . import topology_pb2 as _topology_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Exchange(_message.Message):
    __slots__ = ["arguments", "auto_delete", "durable", "internal", "name", "type"]
    class ArgumentsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _message_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_message_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    AUTO_DELETE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    auto_delete: bool
    durable: bool
    internal: bool
    name: str
    type: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., durable: bool = ..., auto_delete: bool = ..., internal: bool = ..., arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ["cluster_id", "current", "node", "nodes", "shards", "version"]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    current: bool
    node: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    version: str
    def __init__(self, node: _Optional[str] = ..., version: _Optional[str] = ..., cluster_id: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., current: bool = ...) -> None: ...

class ListBindingsRequest(_message.Message):
    __slots__ = ["destination", "page_size", "page_token", "source"]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    page_size: int
    page_token: str
    source: str
    def __init__(self, source: _Optional[str] = ..., destination: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBindingsResponse(_message.Message):
    __slots__ = ["bindings", "next_page_token"]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bindings: _containers.RepeatedCompositeFieldContainer[_topology_pb2.Binding]
    next_page_token: str
    def __init__(self, bindings: _Optional[_Iterable[_Union[_topology_pb2.Binding, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListExchangesRequest(_message.Message):
    __slots__ = ["page_size", "page_token"]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExchangesResponse(_message.Message):
    __slots__ = ["exchanges", "next_page_token"]
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    exchanges: _containers.RepeatedCompositeFieldContainer[Exchange]
    next_page_token: str
    def __init__(self, exchanges: _Optional[_Iterable[_Union[Exchange, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListQueuesRequest(_message.Message):
    __slots__ = ["page_size", "page_token", "without_counts"]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_COUNTS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    without_counts: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., without_counts: bool = ...) -> None: ...

class ListQueuesResponse(_message.Message):
    __slots__ = ["next_page_token", "queues"]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    next_page_token: str
    queues: _containers.RepeatedCompositeFieldContainer[Queue]
    def __init__(self, queues: _Optional[_Iterable[_Union[Queue, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ["name", "number", "started_at_millis", "version"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: int
    started_at_millis: int
    version: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[int] = ..., version: _Optional[str] = ..., started_at_millis: _Optional[int] = ...) -> None: ...

class PeekQueueRequest(_message.Message):
    __slots__ = ["max_body_bytes", "max_messages", "name", "skip"]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    max_body_bytes: int
    max_messages: int
    name: str
    skip: int
    def __init__(self, name: _Optional[str] = ..., max_messages: _Optional[int] = ..., skip: _Optional[int] = ..., max_body_bytes: _Optional[int] = ...) -> None: ...

class PeekQueueResponse(_message.Message):
    __slots__ = ["messages", "ready"]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[PeekedMessage]
    ready: int
    def __init__(self, messages: _Optional[_Iterable[_Union[PeekedMessage, _Mapping]]] = ..., ready: _Optional[int] = ...) -> None: ...

class PeekedMessage(_message.Message):
    __slots__ = ["body_bytes", "message", "redelivered"]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    body_bytes: int
    message: _message_pb2.Message
    redelivered: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., body_bytes: _Optional[int] = ..., redelivered: bool = ...) -> None: ...

class PurgeQueueRequest(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PurgeQueueResponse(_message.Message):
    __slots__ = ["messages"]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class Queue(_message.Message):
    __slots__ = ["arguments", "auto_delete", "counts", "durable", "exclusive", "name", "shard"]
    class ArgumentsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _message_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_message_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    AUTO_DELETE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    auto_delete: bool
    counts: QueueCounts
    durable: bool
    exclusive: bool
    name: str
    shard: int
    def __init__(self, name: _Optional[str] = ..., durable: bool = ..., auto_delete: bool = ..., exclusive: bool = ..., arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ..., shard: _Optional[int] = ..., counts: _Optional[_Union[QueueCounts, _Mapping]] = ...) -> None: ...

class QueueCounts(_message.Message):
    __slots__ = ["consumers", "ready", "ready_bytes", "unsettled"]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    READY_BYTES_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    consumers: int
    ready: int
    ready_bytes: int
    unsettled: int
    def __init__(self, ready: _Optional[int] = ..., ready_bytes: _Optional[int] = ..., unsettled: _Optional[int] = ..., consumers: _Optional[int] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ["nodes", "number", "preferred_leader"]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_LEADER_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[int]
    number: int
    preferred_leader: int
    def __init__(self, number: _Optional[int] = ..., nodes: _Optional[_Iterable[int]] = ..., preferred_leader: _Optional[int] = ...) -> None: ...
