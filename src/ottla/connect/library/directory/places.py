"""Where reading of a file goes on, and whether a file is the one that was read.

A file is known by device and inode, whatever its name is: a renamed one goes on, one that took its name begins. Numbers of
inodes come again, and files are overwritten in place; so the place holds digests of the first bytes, and of those just
before it. A file with others, or a shorter one, is read from its beginning. Knows bytes it is given, and opens nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ottla.connect.errors import ConnectError

#: Bytes that are compared, at the beginning and before the place.
COMPARED = 256
#: Device and inode.
Identity = tuple[int, int]


class UnreadableFileError(ConnectError):
    """A file as a whole is none of its format."""


def digest(data: bytes) -> str:
    """Return what a few bytes are known by."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a file.

    Attributes:
        position: bytes before it, of a file of rows in columns the rows before it.
        head: the digest of the first bytes, `head_size` of them.
        tail: the digest of the bytes before the place, of a file in columns those at its end; None: not known.
        is_gone: the file was read, and was deleted or moved away by us: what has its inode now is another one.
    """

    position: int = 0
    head: str | None = None
    head_size: int = 0
    tail: str | None = None
    is_gone: bool = False

    @classmethod
    def read(cls, offset: Mapping[str, Any] | None) -> Self | None:
        """Return a place that was written down; None: there is none."""
        if offset is None or offset.get("gone"):
            return None
        return cls(
            position=offset["position"],
            head=offset.get("head"),
            head_size=offset.get("head.size", 0),
            tail=offset.get("tail"),
        )

    def offset(self, name: str) -> dict[str, Any]:
        """Return it as it is written down, with the name that the file has for people."""
        if self.is_gone:
            return {"file": name, "position": self.position, "gone": True}
        found: dict[str, Any] = {"file": name, "position": self.position}
        if self.head is not None:
            found |= {"head.size": self.head_size, "head": self.head}
        if self.tail is not None:
            found["tail"] = self.tail
        return found


START = Place()


def wrong_offset(partition: Mapping[str, Any], offset: Mapping[str, Any] | None) -> str | None:
    """Return what is wrong about an offset that somebody wants to write; None: nothing."""
    for name in ("device", "inode"):
        if not _is_count(partition.get(name)):
            return f"Partition objects have the keys 'directory', 'device' and 'inode', and {name} is a number"
    if "directory" not in partition:
        return "Partition objects have the key 'directory'"
    if offset is not None and not _is_count(offset.get("position")):
        return "Offset objects are null, or have the key 'position', which is a number from 0 on"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
