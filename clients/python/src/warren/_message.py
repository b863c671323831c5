"""Messages, and the values of their headers, as Python has them and as the API has them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, Union

from ._proto import message_pb2


class Int32(int):
    """An int that travels as a 32-bit integer (AMQP's I). Plain ints travel with 64 bits (l)."""


class Int16(int):
    """An int that travels as a 16-bit integer (s)."""


class Int8(int):
    """An int that travels as an 8-bit integer (b)."""


class UInt32(int):
    """An int that travels as an unsigned 32-bit integer (i)."""


class UInt16(int):
    """An int that travels as an unsigned 16-bit integer (u)."""


class UInt8(int):
    """An int that travels as an unsigned 8-bit integer (B)."""


class Float32(float):
    """A float that travels with 32 bits (f). Plain floats travel with 64 (d)."""


class Octets(bytes):
    """A text (S) that is not UTF-8. Plain bytes are AMQP's byte array (x)."""


Value = Union[
    None, bool, int, float, str, bytes, datetime.datetime, decimal.Decimal, Sequence["Value"], Mapping[str, "Value"]
]
"""What a header or an argument may hold. What was received can be sent again and is the same: ints and floats of other
widths than 64 bits come as the subclasses above."""


@dataclasses.dataclass
class Message:
    """What is published and delivered. None, or no headers, is an absent property."""

    body: bytes = b""
    routing_key: str = ""
    exchange: str = ""
    """The default exchange, "", sends to the queue named by the routing key."""
    headers: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    content_type: str | None = None
    content_encoding: str | None = None
    transient: bool = False
    """Asks for delivery mode 1. Replicated queues keep such messages like any other."""
    priority: int | None = None
    """0 to 255."""
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: float | None = None
    """How long the message may wait in a queue, in seconds with milliseconds as the unit; None: for ever."""
    message_id: str | None = None
    timestamp: datetime.datetime | None = None
    """To the second. Without a time zone it is taken for local time; received ones are in UTC."""
    type: str | None = None
    user_id: str | None = None
    """Checked by the broker."""
    app_id: str | None = None
    cluster_id: str | None = None
    amqp_encoded: bytes = dataclasses.field(default=b"", repr=False)
    """The headers and properties as AMQP encodes them; received when the fields above cannot say all. If it is published, the
    others do not count, so that a message that is passed on stays what it was: clear it to change one of them."""


_PERSISTENT = 2
_TRANSIENT = 1

# Names of texts that are the same here and in the API.
_TEXTS = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


def to_proto(m: Message) -> message_pb2.Message:
    """The API's form of a message. Raises TypeError or ValueError for what cannot be sent."""
    if not isinstance(m.body, (bytes, bytearray, memoryview)):
        raise TypeError(f"a body must be bytes, not {type(m.body).__name__}")
    out = message_pb2.Message(exchange=m.exchange, routing_key=m.routing_key, body=bytes(m.body))
    p = out.properties
    p.delivery_mode = _TRANSIENT if m.transient else _PERSISTENT
    for name in _TEXTS:
        text = getattr(m, name)
        if text is not None:
            setattr(p, name, text)
    if m.priority is not None:
        p.priority = m.priority
    if m.expiration is not None:
        p.expiration = str(max(1, round(m.expiration * 1000)))
    if m.timestamp is not None:
        p.timestamp_seconds = _seconds(m.timestamp)
    if m.amqp_encoded:
        p.amqp_encoded = m.amqp_encoded
    put_fields(p.headers, m.headers)
    return out


M = TypeVar("M", bound=Message)


def from_proto(kind: type[M], m: message_pb2.Message, **more: Any) -> M:
    """A message of the API as a Message or a subclass, which gets more."""
    p = m.properties
    has = p.HasField
    if has("expiration"):
        more["expiration"] = _expiration(p.expiration)
    if has("timestamp_seconds"):
        more["timestamp"] = _moment(p.timestamp_seconds)
    if has("priority"):
        more["priority"] = p.priority
    for name in _TEXTS:
        if has(name):
            more[name] = getattr(p, name)
    if p.amqp_encoded:
        more["amqp_encoded"] = p.amqp_encoded
    return kind(
        body=m.body,
        routing_key=m.routing_key,
        exchange=m.exchange,
        headers=get_fields(p.headers),
        transient=p.delivery_mode != _PERSISTENT,
        **more,
    )


def _expiration(text: str) -> float | None:
    try:
        return int(text) / 1000
    except ValueError:
        return None  # no client of AMQP could read it


def _seconds(t: datetime.datetime) -> int:
    return int(t.timestamp())


def _moment(seconds: int) -> datetime.datetime:
    """What datetime cannot hold becomes its greatest moment: a foreign message must not end a consumer."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)


def put_fields(into: Any, fields: Mapping[str, Value]) -> None:
    """Puts values into a map of the API."""
    for key, value in fields.items():
        try:
            _put(into[_text(key)], value)
        except (TypeError, ValueError) as e:
            raise type(e)(f"{key}: {e}") from None


def _text(value: Any) -> Any:
    """Refuses a text that is not Unicode, as it has half of a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise ValueError(str(e)) from None
    return value


# The most particular classes first.
_NUMBERS: tuple[tuple[type, str], ...] = (
    (bool, "bool_value"),
    (Int32, "int32_value"),
    (Int16, "int16_value"),
    (Int8, "int8_value"),
    (UInt32, "uint32_value"),
    (UInt16, "uint16_value"),
    (UInt8, "uint8_value"),
    (int, "int64_value"),
    (Float32, "float_value"),
    (float, "double_value"),
    (Octets, "octets_value"),
    (str, "string_value"),
    (bytes, "bytes_value"),
)

# How many bits those have whose field of the API has more.
_BITS = {"int16_value": (-(1 << 15), (1 << 15) - 1), "int8_value": (-128, 127), "uint16_value": (0, 65535), "uint8_value": (0, 255)}


def _put(field: message_pb2.FieldValue, value: Value) -> None:
    if value is None:
        return  # no kind at all
    if isinstance(value, bytearray):
        value = bytes(value)
    for kind, name in _NUMBERS:
        if isinstance(value, kind):
            if name in _BITS and not _BITS[name][0] <= value <= _BITS[name][1]:  # type: ignore[operator]
                raise ValueError(f"{value} is out of range")
            setattr(field, name, _text(value))
            return
    if isinstance(value, datetime.datetime):
        field.timestamp_value = _seconds(value)
    elif isinstance(value, decimal.Decimal):
        _put_decimal(field.decimal_value, value)
    elif isinstance(value, Mapping):
        field.table_value.SetInParent()
        put_fields(field.table_value.fields, value)
    elif isinstance(value, Sequence):
        field.array_value.SetInParent()
        for inner in value:
            _put(field.array_value.values.add(), inner)
    else:
        raise TypeError(f"a value of type {type(value).__name__} cannot be sent")


def _put_decimal(field: message_pb2.Decimal, value: decimal.Decimal) -> None:
    """AMQP's decimals are an unsigned 32-bit integer divided by a power of ten."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or sign:
        raise ValueError(f"{value} is not a decimal of AMQP")
    unscaled = int("".join(map(str, digits))) * 10 ** max(0, exponent)
    scale = max(0, -exponent)
    if unscaled >= 1 << 32 or scale > 255:
        raise ValueError(f"{value} is not a decimal of AMQP")
    field.unscaled, field.scale = unscaled, scale


def get_fields(fields: Any) -> dict[str, Value]:
    """A map of the API as a dict."""
    return {key: _get(value) for key, value in fields.items()}


_CLASSES: dict[str, type] = {
    "int32_value": Int32,
    "int16_value": Int16,
    "int8_value": Int8,
    "uint32_value": UInt32,
    "uint16_value": UInt16,
    "uint8_value": UInt8,
    "float_value": Float32,
    "octets_value": Octets,
}


def _get(field: message_pb2.FieldValue) -> Value:
    name = field.WhichOneof("kind")
    if name is None:
        return None
    value = getattr(field, name)
    if name in _CLASSES:
        return _CLASSES[name](value)  # type: ignore[no-any-return]
    if name == "timestamp_value":
        return _moment(value)
    if name == "decimal_value":
        return decimal.Decimal((0, tuple(map(int, str(value.unscaled))), -value.scale))
    if name == "table_value":
        return get_fields(value.fields)
    if name == "array_value":
        return [_get(inner) for inner in value.values]
    return value  # type: ignore[no-any-return]
