from . import message_pb2 as _message_pb2
from . import topology_pb2 as _topology_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
SETTLEMENT_ACK: Settlement
SETTLEMENT_DISCARD: Settlement
SETTLEMENT_REQUEUE: Settlement
SETTLEMENT_REQUEUE_FAILED: Settlement
SETTLEMENT_UNSPECIFIED: Settlement

class ConsumeRequest(_message.Message):
    __slots__ = ["extend_leases", "set_credit", "settles", "start"]
    EXTEND_LEASES_FIELD_NUMBER: _ClassVar[int]
    SETTLES_FIELD_NUMBER: _ClassVar[int]
    SET_CREDIT_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    extend_leases: ExtendLeases
    set_credit: SetCredit
    settles: Settles
    start: ConsumeStart
    def __init__(self, start: _Optional[_Union[ConsumeStart, _Mapping]] = ..., settles: _Optional[_Union[Settles, _Mapping]] = ..., set_credit: _Optional[_Union[SetCredit, _Mapping]] = ..., extend_leases: _Optional[_Union[ExtendLeases, _Mapping]] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ["cancelled", "deliveries", "started"]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    cancelled: ConsumerCancelled
    deliveries: Deliveries
    started: ConsumeStarted
    def __init__(self, started: _Optional[_Union[ConsumeStarted, _Mapping]] = ..., deliveries: _Optional[_Union[Deliveries, _Mapping]] = ..., cancelled: _Optional[_Union[ConsumerCancelled, _Mapping]] = ...) -> None: ...

class ConsumeStart(_message.Message):
    __slots__ = ["auto_settle", "consumer_tag", "credit", "exclusive", "priority", "queue", "temporary"]
    AUTO_SETTLE_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_TAG_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TEMPORARY_FIELD_NUMBER: _ClassVar[int]
    auto_settle: bool
    consumer_tag: str
    credit: int
    exclusive: bool
    priority: int
    queue: str
    temporary: TemporaryQueue
    def __init__(self, queue: _Optional[str] = ..., temporary: _Optional[_Union[TemporaryQueue, _Mapping]] = ..., credit: _Optional[int] = ..., auto_settle: bool = ..., exclusive: bool = ..., priority: _Optional[int] = ..., consumer_tag: _Optional[str] = ...) -> None: ...

class ConsumeStarted(_message.Message):
    __slots__ = ["consumer_tag", "queue"]
    CONSUMER_TAG_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    consumer_tag: str
    queue: str
    def __init__(self, queue: _Optional[str] = ..., consumer_tag: _Optional[str] = ...) -> None: ...

class ConsumerCancelled(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Deliveries(_message.Message):
    __slots__ = ["deliveries"]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ["delivery_tag", "message", "redelivered"]
    DELIVERY_TAG_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    delivery_tag: int
    message: _message_pb2.Message
    redelivered: bool
    def __init__(self, delivery_tag: _Optional[int] = ..., redelivered: bool = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ...) -> None: ...

class ExtendLeases(_message.Message):
    __slots__ = ["delivery_tags"]
    DELIVERY_TAGS_FIELD_NUMBER: _ClassVar[int]
    delivery_tags: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, delivery_tags: _Optional[_Iterable[int]] = ...) -> None: ...

class Fetch(_message.Message):
    __slots__ = ["auto_settle", "queue"]
    AUTO_SETTLE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    auto_settle: bool
    queue: str
    def __init__(self, queue: _Optional[str] = ..., auto_settle: bool = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ["extend_leases", "fetch", "settle"]
    EXTEND_LEASES_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    extend_leases: ExtendLeases
    fetch: Fetch
    settle: Settle
    def __init__(self, fetch: _Optional[_Union[Fetch, _Mapping]] = ..., settle: _Optional[_Union[Settle, _Mapping]] = ..., extend_leases: _Optional[_Union[ExtendLeases, _Mapping]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ["delivery", "messages_left"]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_LEFT_FIELD_NUMBER: _ClassVar[int]
    delivery: Delivery
    messages_left: int
    def __init__(self, delivery: _Optional[_Union[Delivery, _Mapping]] = ..., messages_left: _Optional[int] = ...) -> None: ...

class SetCredit(_message.Message):
    __slots__ = ["credit"]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    credit: int
    def __init__(self, credit: _Optional[int] = ...) -> None: ...

class Settle(_message.Message):
    __slots__ = ["delay_millis", "delivery_tag", "multiple", "settlement"]
    DELAY_MILLIS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_TAG_FIELD_NUMBER: _ClassVar[int]
    MULTIPLE_FIELD_NUMBER: _ClassVar[int]
    SETTLEMENT_FIELD_NUMBER: _ClassVar[int]
    delay_millis: int
    delivery_tag: int
    multiple: bool
    settlement: Settlement
    def __init__(self, delivery_tag: _Optional[int] = ..., multiple: bool = ..., settlement: _Optional[_Union[Settlement, str]] = ..., delay_millis: _Optional[int] = ...) -> None: ...

class Settles(_message.Message):
    __slots__ = ["settles"]
    SETTLES_FIELD_NUMBER: _ClassVar[int]
    settles: _containers.RepeatedCompositeFieldContainer[Settle]
    def __init__(self, settles: _Optional[_Iterable[_Union[Settle, _Mapping]]] = ...) -> None: ...

class TemporaryQueue(_message.Message):
    __slots__ = ["arguments", "bindings"]
    class ArgumentsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _message_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_message_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    bindings: _containers.RepeatedCompositeFieldContainer[_topology_pb2.Binding]
    def __init__(self, arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ..., bindings: _Optional[_Iterable[_Union[_topology_pb2.Binding, _Mapping]]] = ...) -> None: ...

class Settlement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
