"""Faults that a test asks for: answers with an error, late ones, lost ones. Between the connections and the handlers."""

from __future__ import annotations

import asyncio
from struct import Struct
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ottla.errors import ErrorCode, KafkaError
from ottla.network.connection import PendingReply, Reply
from ottla.protocol.api import APIS, ApiKey, request_header_version, response_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.headers import RequestHeader, ResponseHeader
from ottla.protocol.messages.produce import ProduceRequest
from ottla.testing.refusals import counts, refuse

if TYPE_CHECKING:
    from ottla.file_region import Sendable
    from ottla.network.connection import BrokerConnection, Handle

_KEY_AND_VERSION = Struct(">hh")
_SIZE = Struct(">i")


class Fault:
    """A fault that is in force from the call that made it until its block ends, `stop()`, or it has hit `times` requests.

    Attributes:
        hits: how many requests it has hit.
    """

    def __init__(self, faults: Faults, key: ApiKey, times: int | None) -> None:
        self.hits = 0
        self._faults = faults
        self.key = key
        self.times = times

    @property
    def is_over(self) -> bool:
        """Whether it has hit all it was to hit."""
        return self.times is not None and self.hits >= self.times

    def stop(self) -> None:
        """End it."""
        self._faults.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _hit(self, handle: Handle, connection: BrokerConnection, frame: memoryview) -> Reply:
        """Answer a request instead of `handle`, or with its help."""
        raise NotImplementedError


class ErrorFault(Fault):
    """The broker does nothing and answers with an error code."""

    def __init__(self, faults: Faults, key: ApiKey, times: int | None, code: int) -> None:
        super().__init__(faults, key, times)
        self.code = code

    def _hit(self, handle: Handle, connection: BrokerConnection, frame: memoryview) -> Reply:
        _, version = _KEY_AND_VERSION.unpack_from(frame)
        header, position = decode(RequestHeader, request_header_version(self.key, version), frame)
        request, _ = decode(APIS[self.key].request_class(), version, frame, position)
        response = refuse(self.key, version, request, self.code)
        if counts(request, response, self.code):
            self.hits += 1
        if isinstance(request, ProduceRequest) and request.acks == 0:
            return None
        body = encode(
            ResponseHeader(correlation_id=header.correlation_id), response_header_version(self.key, version)
        ) + encode(response, version)
        return [_SIZE.pack(len(body)) + body]


class DelayFault(Fault):
    """The broker begins later. Time that a test moves ahead counts."""

    def __init__(self, faults: Faults, key: ApiKey, times: int | None, seconds: float) -> None:
        super().__init__(faults, key, times)
        self.seconds = seconds

    def _hit(self, handle: Handle, connection: BrokerConnection, frame: memoryview) -> Reply:
        self.hits += 1
        kept = memoryview(bytes(frame))

        async def answer() -> list[Sendable] | None:
            await asyncio.sleep(self.seconds)
            return await _arrived(handle(connection, kept))

        return PendingReply(asyncio.ensure_future(answer()))


class LossFault(Fault):
    """The broker does what it is asked for, and the connection ends before the answer."""

    def _hit(self, handle: Handle, connection: BrokerConnection, frame: memoryview) -> Reply:
        self.hits += 1
        kept = memoryview(bytes(frame))

        async def answer() -> list[Sendable] | None:
            await asyncio.shield(asyncio.ensure_future(_arrived(handle(connection, kept))))
            connection.abort("")
            return None

        return PendingReply(asyncio.ensure_future(answer()))


class Faults:
    """The faults in force. Belongs to the broker's loop; `add` and `remove` may be called from any thread."""

    def __init__(self) -> None:
        self._faults: tuple[Fault, ...] = ()

    def add(self, fault: Fault) -> Fault:
        """Put a fault in force; of several for one API the first counts until it is over."""
        self._faults = (*self._faults, fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault."""
        self._faults = tuple(one for one in self._faults if one is not fault)

    def clear(self) -> None:
        """End all."""
        self._faults = ()

    def around(self, handle: Handle) -> Handle:
        """Return a handler that lets faults hit and otherwise does what `handle` does."""

        def handle_or_fail(connection: BrokerConnection, frame: memoryview) -> Reply:
            if self._faults:
                key, _ = _KEY_AND_VERSION.unpack_from(frame)
                for fault in self._faults:
                    if fault.key == key and not fault.is_over:
                        return fault._hit(handle, connection, frame)
            return handle(connection, frame)

        return handle_or_fail


async def _arrived(reply: Reply) -> list[Sendable] | None:
    if isinstance(reply, PendingReply):
        return await reply.future
    if isinstance(reply, asyncio.Future):
        return await reply
    return reply


def find_api(name: str) -> ApiKey:
    """Return the key of an API by Kafka's name for it, in any spelling of case and underscores.

    Raises:
        ValueError: there is none; the text names the nearest.
    """
    wanted = name.replace("_", "").lower()
    names = {spec.name.lower(): key for key, spec in APIS.items()}
    if wanted not in names:
        raise ValueError(f"there is no API {name!r}{_nearest(wanted, {k: APIS[v].name for k, v in names.items()})}")
    return names[wanted]


def find_code(error: str | int | type[KafkaError]) -> int:
    """Return an error code by Kafka's name for it, by number, or by the exception that stands for it.

    Raises:
        ValueError: there is none; the text names the nearest.
    """
    if isinstance(error, type):
        return int(error.code)
    if isinstance(error, int):
        return int(error)
    wanted = error.upper()
    if wanted not in ErrorCode.__members__ or wanted == "NONE":
        raise ValueError(
            f"there is no error {error!r}{_nearest(wanted, {name: name for name in ErrorCode.__members__})}"
        )
    return int(ErrorCode[wanted])


def _nearest(wanted: str, names: dict[str, str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(wanted, names, n=1)
    return f"; did you mean {names[found[0]]}?" if found else ""
