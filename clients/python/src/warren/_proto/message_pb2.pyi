from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
ERROR_REASON_ACCESS_REFUSED: ErrorReason
ERROR_REASON_ALREADY_EXISTS: ErrorReason
ERROR_REASON_CLOSED: ErrorReason
ERROR_REASON_DELIVERY_TIMEOUT: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_INVALID_ARGUMENT: ErrorReason
ERROR_REASON_LOGIN_REFUSED: ErrorReason
ERROR_REASON_NOT_ALLOWED: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_NOT_IMPLEMENTED: ErrorReason
ERROR_REASON_PRECONDITION_FAILED: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_REFUSED: ErrorReason
ERROR_REASON_RESOURCE_ERROR: ErrorReason
ERROR_REASON_RESOURCE_LOCKED: ErrorReason
ERROR_REASON_UNAVAILABLE: ErrorReason
ERROR_REASON_UNSPECIFIED: ErrorReason

class Decimal(_message.Message):
    __slots__ = ["scale", "unscaled"]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    UNSCALED_FIELD_NUMBER: _ClassVar[int]
    scale: int
    unscaled: int
    def __init__(self, scale: _Optional[int] = ..., unscaled: _Optional[int] = ...) -> None: ...

class FieldArray(_message.Message):
    __slots__ = ["values"]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[FieldValue]
    def __init__(self, values: _Optional[_Iterable[_Union[FieldValue, _Mapping]]] = ...) -> None: ...

class FieldTable(_message.Message):
    __slots__ = ["fields"]
    class FieldsEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FieldValue, _Mapping]] = ...) -> None: ...
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.MessageMap[str, FieldValue]
    def __init__(self, fields: _Optional[_Mapping[str, FieldValue]] = ...) -> None: ...

class FieldValue(_message.Message):
    __slots__ = ["array_value", "bool_value", "bytes_value", "decimal_value", "double_value", "float_value", "int16_value", "int32_value", "int64_value", "int8_value", "octets_value", "string_value", "table_value", "timestamp_value", "uint16_value", "uint32_value", "uint8_value"]
    ARRAY_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    DECIMAL_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT16_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT32_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT8_VALUE_FIELD_NUMBER: _ClassVar[int]
    OCTETS_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    TABLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_VALUE_FIELD_NUMBER: _ClassVar[int]
    UINT16_VALUE_FIELD_NUMBER: _ClassVar[int]
    UINT32_VALUE_FIELD_NUMBER: _ClassVar[int]
    UINT8_VALUE_FIELD_NUMBER: _ClassVar[int]
    array_value: FieldArray
    bool_value: bool
    bytes_value: bytes
    decimal_value: Decimal
    double_value: float
    float_value: float
    int16_value: int
    int32_value: int
    int64_value: int
    int8_value: int
    octets_value: bytes
    string_value: str
    table_value: FieldTable
    timestamp_value: int
    uint16_value: int
    uint32_value: int
    uint8_value: int
    def __init__(self, bool_value: bool = ..., int64_value: _Optional[int] = ..., string_value: _Optional[str] = ..., double_value: _Optional[float] = ..., bytes_value: _Optional[bytes] = ..., timestamp_value: _Optional[int] = ..., array_value: _Optional[_Union[FieldArray, _Mapping]] = ..., table_value: _Optional[_Union[FieldTable, _Mapping]] = ..., int32_value: _Optional[int] = ..., int16_value: _Optional[int] = ..., int8_value: _Optional[int] = ..., uint32_value: _Optional[int] = ..., uint16_value: _Optional[int] = ..., uint8_value: _Optional[int] = ..., float_value: _Optional[float] = ..., decimal_value: _Optional[_Union[Decimal, _Mapping]] = ..., octets_value: _Optional[bytes] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ["body", "exchange", "properties", "routing_key"]
    BODY_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    exchange: str
    properties: Properties
    routing_key: str
    def __init__(self, exchange: _Optional[str] = ..., routing_key: _Optional[str] = ..., properties: _Optional[_Union[Properties, _Mapping]] = ..., body: _Optional[bytes] = ...) -> None: ...

class Properties(_message.Message):
    __slots__ = ["amqp_encoded", "app_id", "cluster_id", "content_encoding", "content_type", "correlation_id", "delivery_mode", "expiration", "headers", "message_id", "priority", "reply_to", "timestamp_seconds", "type", "user_id"]
    class HeadersEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FieldValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FieldValue, _Mapping]] = ...) -> None: ...
    AMQP_ENCODED_FIELD_NUMBER: _ClassVar[int]
    APP_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ENCODING_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_MODE_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    amqp_encoded: bytes
    app_id: str
    cluster_id: str
    content_encoding: str
    content_type: str
    correlation_id: str
    delivery_mode: int
    expiration: str
    headers: _containers.MessageMap[str, FieldValue]
    message_id: str
    priority: int
    reply_to: str
    timestamp_seconds: int
    type: str
    user_id: str
    def __init__(self, content_type: _Optional[str] = ..., content_encoding: _Optional[str] = ..., headers: _Optional[_Mapping[str, FieldValue]] = ..., delivery_mode: _Optional[int] = ..., priority: _Optional[int] = ..., correlation_id: _Optional[str] = ..., reply_to: _Optional[str] = ..., expiration: _Optional[str] = ..., message_id: _Optional[str] = ..., timestamp_seconds: _Optional[int] = ..., type: _Optional[str] = ..., user_id: _Optional[str] = ..., app_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., amqp_encoded: _Optional[bytes] = ...) -> None: ...

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
