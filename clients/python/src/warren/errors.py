"""The errors of the SDK. All are of class Error; those that the broker answers are of class BrokerError and have a code, a
reason and a text.
"""

from __future__ import annotations

import enum

import grpc

from ._proto import message_pb2, status_pb2


class Reason(str, enum.Enum):
    """What sort of refusal an error is."""

    INTERNAL = "INTERNAL"
    NOT_FOUND = "NOT_FOUND"
    ACCESS_REFUSED = "ACCESS_REFUSED"
    RESOURCE_LOCKED = "RESOURCE_LOCKED"
    PRECONDITION_FAILED = "PRECONDITION_FAILED"
    NOT_ALLOWED = "NOT_ALLOWED"
    NOT_IMPLEMENTED = "NOT_IMPLEMENTED"
    RESOURCE_ERROR = "RESOURCE_ERROR"
    UNAVAILABLE = "UNAVAILABLE"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    LOGIN_REFUSED = "LOGIN_REFUSED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    QUEUE_FULL = "QUEUE_FULL"
    """Of a message: a queue with overflow policy reject-publish is full."""
    REFUSED = "REFUSED"
    """Of a message: its number is below the lowest that its producer may publish again."""
    CLOSED = "CLOSED"
    DELIVERY_TIMEOUT = "DELIVERY_TIMEOUT"
    """A delivery was not settled in time. Consumers start again by themselves."""
    UNSPECIFIED = "UNSPECIFIED"
    """The broker gave none, or one that this version of the SDK does not know."""


class Error(Exception):
    """The base of the SDK's errors."""


class ClosedError(Error):
    """Something was used after its close, or its client's."""


class LostError(Error):
    """The connection of a delivery was lost before it was settled: the message is delivered again."""


class SettledError(Error):
    """A delivery was settled already."""


class OutcomeError(Error):
    """A message that was published is not stored everywhere it should be, or that is not known."""


class UnroutableError(OutcomeError):
    """No queue is bound for the message: it is nowhere."""


class RejectedError(OutcomeError):
    """The broker did not take the message, or a queue with a limit refused it."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"message rejected: {text}")
        self.reason = reason
        self.text = text


class OutcomeUnknownError(OutcomeError):
    """The publisher ended before it knew what became of the message; the cause says why."""


class BrokerError(Error):
    """A refusal of the broker. Its subclasses are the reasons."""

    def __init__(self, code: grpc.StatusCode, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.text = text


class NotFoundError(BrokerError):
    """There is no such queue or exchange."""


class AccessRefusedError(BrokerError):
    """The user's permissions do not allow it."""


class ResourceLockedError(BrokerError):
    """The queue belongs to another connection, or is consumed exclusively."""


class PreconditionFailedError(BrokerError):
    """A declaration differs from what is there, a condition does not hold, a property is invalid."""


class NotAllowedError(BrokerError):
    """Not allowed at all: a virtual host that is not there or is closed to the user, a consumer tag in use."""


class UnimplementedError(BrokerError):
    """The broker does not do this."""


class ResourceError(BrokerError):
    """A limit of the broker."""


class UnavailableError(BrokerError):
    """No majority or no leader in time. The SDK tries again by itself: programs do not see this as a rule."""


class AlreadyExistsError(BrokerError):
    """It is there already."""


class LoginRefusedError(BrokerError):
    """No credentials, or wrong ones."""


class InvalidArgumentError(BrokerError):
    """The request does not make sense by itself."""


class InternalError(BrokerError):
    """A fault of the broker; its log says more."""


_CLASSES: dict[Reason, type[BrokerError]] = {
    Reason.INTERNAL: InternalError,
    Reason.NOT_FOUND: NotFoundError,
    Reason.ACCESS_REFUSED: AccessRefusedError,
    Reason.RESOURCE_LOCKED: ResourceLockedError,
    Reason.PRECONDITION_FAILED: PreconditionFailedError,
    Reason.NOT_ALLOWED: NotAllowedError,
    Reason.NOT_IMPLEMENTED: UnimplementedError,
    Reason.RESOURCE_ERROR: ResourceError,
    Reason.UNAVAILABLE: UnavailableError,
    Reason.ALREADY_EXISTS: AlreadyExistsError,
    Reason.LOGIN_REFUSED: LoginRefusedError,
    Reason.INVALID_ARGUMENT: InvalidArgumentError,
    Reason.CLOSED: UnavailableError,
}

_DOMAIN = "warrenmq"
_DETAILS_KEY = "grpc-status-details-bin"


def reason_named(name: str) -> Reason:
    """The reason of this name, with or without the prefix that it has in the API's definition."""
    try:
        return Reason(name.removeprefix("ERROR_REASON_"))
    except ValueError:
        return Reason.UNSPECIFIED


def reason_of(number: int) -> Reason:
    """The reason with this number in the API."""
    try:
        return reason_named(message_pb2.ErrorReason.Name(number))
    except ValueError:
        return Reason.UNSPECIFIED


def from_status(status: grpc.aio.AioRpcError) -> BrokerError:
    """The error that a status of a call stands for."""
    reason = Reason.UNSPECIFIED
    for key, value in status.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            reason = _reason_in(value)
    kind = _CLASSES.get(reason, BrokerError)
    return kind(status.code(), reason, status.details() or status.code().name)


def _reason_in(details: bytes) -> Reason:
    for detail in status_pb2.Status.FromString(details).details:
        if detail.type_url.endswith("/google.rpc.ErrorInfo"):
            info = status_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == _DOMAIN:
                return reason_named(info.reason)
    return Reason.UNSPECIFIED


_TRANSIENT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
)


def is_too_large(status: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC itself, and not the broker, refused a request for its size."""
    return status.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and from_status(status).reason is Reason.UNSPECIFIED


def is_locked(status: grpc.aio.AioRpcError) -> bool:
    """Whether another connection has the queue for itself."""
    e = from_status(status)
    # Nodes of before said ACCESS_REFUSED of an exclusive consumer, as AMQP does.
    before = e.reason is Reason.ACCESS_REFUSED and e.text.endswith(" in exclusive use")
    return e.reason is Reason.RESOURCE_LOCKED or before


def is_transient(status: grpc.aio.AioRpcError) -> bool:
    """Whether another attempt, on another node, may succeed."""
    return status.code() in _TRANSIENT
