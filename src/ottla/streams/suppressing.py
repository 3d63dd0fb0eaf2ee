"""Writes suppress() into the topology, under Java's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ottla.client.keys import Duration
from ottla.streams.errors import TopologyError
from ottla.streams.operators import suppress
from ottla.streams.operators.suppress import Limits, SuppressView
from ottla.streams.topology import StoreKind, StoreSpec
from ottla.streams.windows import SessionWindows, milliseconds

if TYPE_CHECKING:
    from ottla.streams.table import Table


def add(
    table: Table[Any, Any],
    until: str | None,
    until_time_limit: Duration | None,
    max_records: int | None,
    max_bytes: int | None,
    when_full: str | None,
    store: str | None,
    name: str | None,
) -> Table[Any, Any]:
    """Add the operator and its buffer.

    Raises:
        TopologyError: what was asked for does not fit together.
    """
    from ottla.streams.table import Table

    builder, windows = table._builder, table._windows
    if (until is None) == (until_time_limit is None) or until not in (None, "until_window_closes"):
        raise TopologyError('suppress() takes "until_window_closes" or until_time_limit=')
    if table._view.is_versioned:
        raise TopologyError("suppress() is for tables without versions; this one, or what it is made of, has a history")
    if until_time_limit is None:
        if windows is None:
            raise TopologyError('suppress("until_window_closes") is for windowed tables; take until_time_limit=')
        if when_full == "emit_early":
            raise TopologyError("final results cannot be emitted early; take until_time_limit=")
        gap = windows.gap_ms if isinstance(windows, SessionWindows) else 0
        wait_ms = windows.grace_ms + gap
    else:
        wait_ms = milliseconds("until_time_limit", until_time_limit)
    node = builder.new_name("KTABLE-SUPPRESS-") if name is None else name
    store_name = builder.store_name(store or (f"{name}-store" if name else None), "KTABLE-SUPPRESS-")
    builder.add_store(
        StoreSpec(
            name=store_name,
            kind=StoreKind.BUFFER,
            key_serde=builder.key_or_default(table._key_serde),
            value_serde=builder.value_or_default(table._value_serde),
            changelog=builder.changelog(store_name),
            changelog_configs={"cleanup.policy": "compact", "message.timestamp.type": "CreateTime"},
            generated_name=store is None and name is None,
        )
    )
    limits = Limits(
        wait_ms=wait_ms,
        final=until_time_limit is None,
        max_records=max_records,
        max_bytes=max_bytes,
        emit_early=(when_full or ("emit_early" if until_time_limit is not None else "fail")) == "emit_early",
    )
    view = SuppressView(table._view, store_name)
    builder.processor(node, suppress.suppressing(view, store_name, limits), [table._node], [store_name])
    return Table(builder, node, view, table._key_serde, table._value_serde, table._sources, windows=windows)
