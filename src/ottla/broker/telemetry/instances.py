"""The client instances that ask for subscriptions and push metrics: what each may do now (KIP-714).

Decides with the time passed in; the checks and their order are those of Kafka's ClientMetricsManager. A client that asks or
pushes before its interval has passed gets THROTTLING_QUOTA_EXCEEDED, except for the first push after it asked, a push that
says it is the last, and a question after an answer that requires one.

Bounded: at most `INSTANCES_MAX` are remembered, the ones used last; one that has been silent for three intervals is
forgotten. Kafka also forgets an instance when its connection ends; we keep it, because it may come back by another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ottla.broker.telemetry.subscriptions import ClientAttributes, Selection, Subscription, select
from ottla.errors import ErrorCode
from ottla.types import CompressionType

INSTANCES_MAX = 16_384
#: An instance is remembered for this long at least.
EXPIRY_MS_MIN = 60_000
#: Ids that name no client: Kafka's Uuid.ZERO_UUID and Uuid.ONE_UUID.
RESERVED_IDS = frozenset({bytes(16), bytes(15) + b"\x01"})

_NEVER = -(1 << 62)
#: After these answers to a push a client is to ask at once.
_ASK_AGAIN = (ErrorCode.UNKNOWN_SUBSCRIPTION_ID, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)


class ClientInstance:
    """One client, as of the subscriptions it was last measured against."""

    __slots__ = (
        "attributes",
        "expires_ms",
        "last_error",
        "last_get_ms",
        "last_push_ms",
        "selection",
        "terminating",
        "version",
    )

    def __init__(self, attributes: ClientAttributes, selection: Selection, version: int) -> None:
        self.attributes = attributes
        self.selection = selection
        self.version = version
        self.last_get_ms = self.last_push_ms = _NEVER
        self.terminating = False
        self.last_error = ErrorCode.NONE
        self.expires_ms = 0


class ClientInstances:
    """Answers for the two requests, and what is counted about them.

    Attributes:
        throttled, unknown_subscriptions: how often these answers were given.
    """

    def __init__(self, telemetry_bytes_max: int) -> None:
        self.telemetry_bytes_max = telemetry_bytes_max
        self.throttled = 0
        self.unknown_subscriptions = 0
        self._instances: OrderedDict[bytes, ClientInstance] = OrderedDict()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._version = 0

    def __len__(self) -> int:
        return len(self._instances)

    def __contains__(self, instance_id: bytes) -> bool:
        return instance_id in self._instances

    def change_subscriptions(self, subscriptions: Iterable[Subscription]) -> None:
        """Measure every client anew when it comes next: it may then ask at once."""
        self._subscriptions = tuple(subscriptions)
        self._version += 1

    def on_get(self, instance_id: bytes, attributes: ClientAttributes, now_ms: int) -> tuple[ErrorCode, ClientInstance]:
        """A client asks what it should push."""
        instance = self._find(instance_id, attributes, now_ms)
        waited_ms = now_ms - max(instance.last_get_ms, instance.last_push_ms)
        if waited_ms >= instance.selection.push_interval_ms:
            instance.last_get_ms = now_ms
        elif instance.last_error not in _ASK_AGAIN:
            self.throttled += 1
            return ErrorCode.THROTTLING_QUOTA_EXCEEDED, instance
        instance.last_error = ErrorCode.NONE
        return ErrorCode.NONE, instance

    def on_push(
        self,
        instance_id: bytes,
        attributes: ClientAttributes,
        now_ms: int,
        *,
        subscription_id: int,
        terminating: bool,
        compression: int,
        size: int,
    ) -> tuple[ErrorCode, ClientInstance | None]:
        """A client pushes. After NONE its payload may be read; report what is wrong with it to `on_bad_payload`."""
        if instance_id in RESERVED_IDS:
            return ErrorCode.INVALID_REQUEST, None
        instance = self._find(instance_id, attributes, now_ms)
        instance.last_error = self._check_push(instance, now_ms, subscription_id, terminating, compression, size)
        instance.terminating = terminating
        return instance.last_error, instance

    def _check_push(
        self,
        instance: ClientInstance,
        now_ms: int,
        subscription_id: int,
        terminating: bool,
        compression: int,
        size: int,
    ) -> ErrorCode:
        if instance.terminating:
            return ErrorCode.INVALID_REQUEST
        # The first push after a question may come at half of the interval: clients spread themselves out.
        if (
            instance.last_get_ms > instance.last_push_ms
            or now_ms - instance.last_push_ms >= instance.selection.push_interval_ms
        ):
            instance.last_push_ms = now_ms
        elif not terminating:
            self.throttled += 1
            return ErrorCode.THROTTLING_QUOTA_EXCEEDED
        if subscription_id != instance.selection.subscription_id:
            self.unknown_subscriptions += 1
            return ErrorCode.UNKNOWN_SUBSCRIPTION_ID
        if compression not in tuple(CompressionType):
            return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        if size > self.telemetry_bytes_max:
            return ErrorCode.TELEMETRY_TOO_LARGE
        return ErrorCode.NONE

    def on_bad_payload(self, instance_id: bytes) -> None:
        """What was pushed could not be read."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.last_error = ErrorCode.INVALID_RECORD

    def expire(self, now_ms: int) -> None:
        """Forget instances that have been silent for too long."""
        for instance_id in [i for i, instance in self._instances.items() if instance.expires_ms <= now_ms]:
            del self._instances[instance_id]

    def _find(self, instance_id: bytes, attributes: ClientAttributes, now_ms: int) -> ClientInstance:
        instance = self._instances.get(instance_id)
        if instance is None or instance.version < self._version:
            # Kafka keeps what it first saw of a client: its subscription does not change with the port it comes from.
            known = attributes if instance is None else instance.attributes
            instance = ClientInstance(known, select(self._subscriptions, instance_id, known), self._version)
            self._instances[instance_id] = instance
            if len(self._instances) > INSTANCES_MAX:
                self._instances.popitem(last=False)
        self._instances.move_to_end(instance_id)
        instance.expires_ms = now_ms + max(EXPIRY_MS_MIN, 3 * instance.selection.push_interval_ms)
        return instance
