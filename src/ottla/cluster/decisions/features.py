"""Finalized feature levels: which updates are allowed (KIP-584, KIP-778).

A cluster begins with every feature at its highest level. An update that is refused changes nothing, whatever else the request
asks for. A level may go down by any step if the request says so; `broker.handlers.features` tells what each level means.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ottla.cluster.decisions.refusal import Refusal
from ottla.errors import ErrorCode
from ottla.protocol.api import FEATURES

UPGRADE: Final = 1
_DOWNGRADES: Final = (2, 3)  # safe, unsafe: no level here loses data, so there is no difference

GROUP_VERSION: Final = "group.version"
SHARE_VERSION: Final = "share.version"
STREAMS_VERSION: Final = "streams.version"
TRANSACTION_VERSION: Final = "transaction.version"

#: name -> (lowest, highest level)
SUPPORTED: Final[Mapping[str, tuple[int, int]]] = {name: (low, high) for name, low, high in FEATURES}


class FeatureUpdate(NamedTuple):
    """The level a feature is to have; `upgrade_type` as in UpdateFeatures: 1 upgrade, 2 safe and 3 unsafe downgrade."""

    name: str
    level: int
    upgrade_type: int = UPGRADE


def finalized(stored: Mapping[str, int]) -> dict[str, int]:
    """Return the level of every feature: as it was set, within what is supported; the highest if it never was set."""
    return {name: max(low, min(stored.get(name, high), high)) for name, (low, high) in SUPPORTED.items()}


def update_features(stored: Mapping[str, int], updates: Sequence[FeatureUpdate]) -> dict[str, int] | Refusal:
    """Return all levels after the updates, or why they are refused. Of two updates of one feature the last one counts."""
    levels = finalized(stored)
    for update in {update.name: update for update in updates}.values():
        reason = _why_refused(update, levels.get(update.name, 0))
        if reason is not None:
            return Refusal(
                ErrorCode.INVALID_UPDATE_VERSION,
                f"Feature {update.name} cannot get level {update.level}, and nothing was changed: {reason}",
            )
        levels[update.name] = update.level
    return levels


def _why_refused(update: FeatureUpdate, current: int) -> str | None:
    if update.upgrade_type != UPGRADE and update.upgrade_type not in _DOWNGRADES:
        return f"{update.upgrade_type} is no upgrade type."
    if update.level < 0:
        return "a level is never negative."
    if update.name not in SUPPORTED:
        return "this broker has no such feature."
    low, high = SUPPORTED[update.name]
    if not low <= update.level <= high:
        return f"this broker supports levels {low} to {high}."
    if update.level < current and update.upgrade_type == UPGRADE:
        return f"it is at {current}, and the upgrade type does not allow a downgrade."
    if update.level > current and update.upgrade_type != UPGRADE:
        return f"it is at {current}, and the upgrade type is that of a downgrade."
    return None
