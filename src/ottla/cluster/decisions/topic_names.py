"""Which names a topic may have. Pure."""

from __future__ import annotations

from collections.abc import Iterable

TOPIC_NAME_LENGTH_MAX = 249
#: The KRaft log, which clients can ask about but never create.
CLUSTER_METADATA_TOPIC = "__cluster_metadata"

_LEGAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def why_invalid(name: str) -> str | None:
    """Return what is wrong with a topic's name, None if it is fine."""
    reason = None
    if not name:
        reason = "the empty string is not allowed"
    elif name in (".", ".."):
        reason = f"'{name}' is not allowed"
    elif len(name) > TOPIC_NAME_LENGTH_MAX:
        reason = f"the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
    elif not _LEGAL.issuperset(name):
        reason = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    return None if reason is None else f"Topic name is invalid: {reason}"


def colliding_names(existing: Iterable[str]) -> dict[str, str]:
    """Return the names that could be confused with others, by their unified form.

    In names of metrics "." and "_" are the same, so `a.b` and `a_b` must not exist both.
    """
    return {unified(name): name for name in existing if "." in name or "_" in name}


def unified(name: str) -> str:
    return name.replace(".", "_")
