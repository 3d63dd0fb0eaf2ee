"""What goes over the socket between a tree that a supervisor serves and its brokers: frames of JSON, each with its length.

A request is `[number, what, arguments...]`, its answer `[number, value]` or `[number, null, error, path, text]`; an answer
with number 0 is an event: the children of a path have changed. Bytes of nodes are text here, one character for each byte.
"""

from __future__ import annotations

import json
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from ottla.cluster.tree import (
    BadVersionError,
    Check,
    Create,
    Delete,
    NoChildrenForEphemeralsError,
    Node,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    Operation,
    Result,
    SetData,
    Stat,
    TreeError,
    TreeUnavailableError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

#: Numbers of answers that are none.
EVENT: Final = 0
#: A frame that is larger ends the connection. The largest answers are whole trees.
FRAME_BYTES_MAX: Final = 256 << 20

_SIZE: Final = Struct(">I")
_REFUSALS: Final[dict[str, type[TreeError]]] = {
    kind.__name__: kind
    for kind in (NoNodeError, NodeExistsError, BadVersionError, NotEmptyError, NoChildrenForEphemeralsError)
}


def frame(value: Any) -> bytes:
    """Return a value as it is sent."""
    data = json.dumps(value, separators=(",", ":")).encode()
    return _SIZE.pack(len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """Return the next value.

    Raises:
        ConnectionError: there is none: the other end is gone, or sends something else.
        asyncio.IncompleteReadError: the connection ended.
    """
    (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
    if size > FRAME_BYTES_MAX:
        raise ConnectionError(f"a frame of {size} bytes")
    try:
        return json.loads(await reader.readexactly(size))
    except ValueError as error:
        raise ConnectionError("a frame that is no JSON") from error


def pack_operation(operation: Operation) -> list[Any]:
    match operation:
        case Create():
            return ["create", operation.path, _text(operation.data), operation.ephemeral, operation.sequential]
        case SetData():
            return ["set", operation.path, _text(operation.data), operation.version]
        case Delete():
            return ["delete", operation.path, operation.version]
        case Check():
            return ["check", operation.path, operation.version]


def unpack_operation(packed: Sequence[Any]) -> Operation:
    kind, path, *rest = packed
    if kind == "create":
        return Create(path, _bytes(rest[0]), ephemeral=rest[1], sequential=rest[2])
    if kind == "set":
        return SetData(path, _bytes(rest[0]), rest[1])
    return Delete(path, rest[0]) if kind == "delete" else Check(path, rest[0])


def pack_result(result: Result) -> Any:
    return list(result[:4]) if isinstance(result, Stat) else result


def unpack_result(packed: Any) -> Result:
    return Stat(*packed) if isinstance(packed, list) else packed


def pack_node(node: Node | None) -> Any:
    return None if node is None else [_text(node.data), *node.stat[:4]]


def unpack_node(packed: Any) -> Node | None:
    return None if packed is None else Node(_bytes(packed[0]), Stat(*packed[1:]))


def pack_error(error: TreeError | TreeUnavailableError) -> list[Any]:
    """Return what follows the number in an answer that is an error."""
    path = error.path if isinstance(error, TreeError) else ""
    return [None, type(error).__name__, path, str(error)]


def unpack_error(name: str, path: str, text: str) -> TreeError | TreeUnavailableError:
    refusal = _REFUSALS.get(name)
    return TreeUnavailableError(text) if refusal is None else refusal(path, text.removeprefix(f"{path}: "))


def _text(data: bytes) -> str:
    return bytes(data).decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
