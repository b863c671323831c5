from . import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
DESTINATION_TYPE_EXCHANGE: DestinationType
DESTINATION_TYPE_QUEUE: DestinationType
DESTINATION_TYPE_UNSPECIFIED: DestinationType

class BindRequest(_message.Message):
    __slots__ = ["binding"]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    binding: Binding
    def __init__(self, binding: _Optional[_Union[Binding, _Mapping]] = ...) -> None: ...

class BindResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Binding(_message.Message):
    __slots__ = ["arguments", "destination", "destination_type", "routing_key", "source"]
    class ArgumentsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _message_pb2.FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_message_pb2.FieldValue, _Mapping]] = ...) -> None: ...
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    destination: str
    destination_type: DestinationType
    routing_key: str
    source: str
    def __init__(self, source: _Optional[str] = ..., destination: _Optional[str] = ..., destination_type: _Optional[_Union[DestinationType, str]] = ..., routing_key: _Optional[str] = ..., arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ...) -> None: ...

class DeclareExchangeRequest(_message.Message):
    __slots__ = ["arguments", "auto_delete", "durable", "internal", "name", "passive", "type"]
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
    PASSIVE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    auto_delete: bool
    durable: bool
    internal: bool
    name: str
    passive: bool
    type: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., passive: bool = ..., durable: bool = ..., auto_delete: bool = ..., internal: bool = ..., arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ...) -> None: ...

class DeclareExchangeResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DeclareQueueRequest(_message.Message):
    __slots__ = ["arguments", "auto_delete", "durable", "name", "passive"]
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
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSIVE_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.MessageMap[str, _message_pb2.FieldValue]
    auto_delete: bool
    durable: bool
    name: str
    passive: bool
    def __init__(self, name: _Optional[str] = ..., passive: bool = ..., durable: bool = ..., auto_delete: bool = ..., arguments: _Optional[_Mapping[str, _message_pb2.FieldValue]] = ...) -> None: ...

class DeclareQueueResponse(_message.Message):
    __slots__ = ["consumers", "messages", "name"]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    consumers: int
    messages: int
    name: str
    def __init__(self, name: _Optional[str] = ..., messages: _Optional[int] = ..., consumers: _Optional[int] = ...) -> None: ...

class DeleteExchangeRequest(_message.Message):
    __slots__ = ["if_unused", "name"]
    IF_UNUSED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    if_unused: bool
    name: str
    def __init__(self, name: _Optional[str] = ..., if_unused: bool = ...) -> None: ...

class DeleteExchangeResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DeleteQueueRequest(_message.Message):
    __slots__ = ["if_empty", "if_unused", "name"]
    IF_EMPTY_FIELD_NUMBER: _ClassVar[int]
    IF_UNUSED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    if_empty: bool
    if_unused: bool
    name: str
    def __init__(self, name: _Optional[str] = ..., if_unused: bool = ..., if_empty: bool = ...) -> None: ...

class DeleteQueueResponse(_message.Message):
    __slots__ = ["messages"]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...

class UnbindRequest(_message.Message):
    __slots__ = ["binding"]
    BINDING_FIELD_NUMBER: _ClassVar[int]
    binding: Binding
    def __init__(self, binding: _Optional[_Union[Binding, _Mapping]] = ...) -> None: ...

class UnbindResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class DestinationType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
