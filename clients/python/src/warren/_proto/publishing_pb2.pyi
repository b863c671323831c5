from . import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
OUTCOME_CONFIRMED: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_UNROUTABLE: Outcome
OUTCOME_UNSPECIFIED: Outcome

class Blocked(_message.Message):
    __slots__ = ["reason"]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Confirm(_message.Message):
    __slots__ = ["detail", "first_sequence", "last_sequence", "outcome", "reason"]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    detail: str
    first_sequence: int
    last_sequence: int
    outcome: Outcome
    reason: _message_pb2.ErrorReason
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., reason: _Optional[_Union[_message_pb2.ErrorReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Confirms(_message.Message):
    __slots__ = ["confirms"]
    CONFIRMS_FIELD_NUMBER: _ClassVar[int]
    confirms: _containers.RepeatedCompositeFieldContainer[Confirm]
    def __init__(self, confirms: _Optional[_Iterable[_Union[Confirm, _Mapping]]] = ...) -> None: ...

class PublishBatch(_message.Message):
    __slots__ = ["first_sequence", "lowest_unconfirmed", "messages"]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LOWEST_UNCONFIRMED_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    lowest_unconfirmed: int
    messages: _containers.RepeatedCompositeFieldContainer[_message_pb2.Message]
    def __init__(self, first_sequence: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[_message_pb2.Message, _Mapping]]] = ..., lowest_unconfirmed: _Optional[int] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ["batch", "start"]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    batch: PublishBatch
    start: PublishStart
    def __init__(self, start: _Optional[_Union[PublishStart, _Mapping]] = ..., batch: _Optional[_Union[PublishBatch, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ["blocked", "confirms"]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    CONFIRMS_FIELD_NUMBER: _ClassVar[int]
    blocked: Blocked
    confirms: Confirms
    def __init__(self, confirms: _Optional[_Union[Confirms, _Mapping]] = ..., blocked: _Optional[_Union[Blocked, _Mapping]] = ...) -> None: ...

class PublishStart(_message.Message):
    __slots__ = ["producer_id"]
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    producer_id: str
    def __init__(self, producer_id: _Optional[str] = ...) -> None: ...

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
