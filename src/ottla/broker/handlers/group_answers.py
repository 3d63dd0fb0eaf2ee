"""What the handlers of consumer, share and streams groups answer alike: descriptions, and heartbeats that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ottla.broker.coordinators.errors import client_error_code
from ottla.broker.handlers.groups import GROUP_OPERATIONS
from ottla.errors import ErrorCode, KafkaError, error_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ottla.broker.coordinators.groups.coordinator import GroupCoordinator
    from ottla.broker.coordinators.runtime import CoordinatorRuntime

R = TypeVar("R")


async def described_groups(
    runtime: CoordinatorRuntime[GroupCoordinator],
    group_ids: Sequence[str],
    row_class: Callable[..., R],
    describe: Callable[[GroupCoordinator, str], R],
    *,
    is_enabled: bool,
    include_operations: bool,
) -> list[R]:
    """Return the description of each group, or why there is none.

    Args:
        row_class: makes a description that says why there is none.
        describe: describes one group of the coordinator; raises a KafkaError if it cannot.
        is_enabled: whether groups of this type are served at all.
        include_operations: add what the client may do to the group.
    """
    rows: list[R] = []
    for group_id in group_ids:
        row: Any
        if not is_enabled:
            row = row_class(group_id=group_id, error_code=ErrorCode.UNSUPPORTED_VERSION)
        elif not group_id:
            row = row_class(group_id=group_id, error_code=ErrorCode.INVALID_GROUP_ID)
        else:
            row = await _described(runtime, group_id, row_class, describe)
        if include_operations and row.error_code == ErrorCode.NONE:
            row.authorized_operations = GROUP_OPERATIONS
        rows.append(row)
    return rows


async def _described(
    runtime: CoordinatorRuntime[GroupCoordinator],
    group_id: str,
    row_class: Callable[..., R],
    describe: Callable[[GroupCoordinator, str], R],
) -> R:
    try:
        partition = runtime.partition_for(group_id)
        return await runtime.proven(partition, lambda: runtime.read(partition, lambda shard: describe(shard, group_id)))
    except KafkaError as error:
        code = client_error_code(error)
        message = error.message if code == ErrorCode.GROUP_ID_NOT_FOUND else None
        return row_class(group_id=group_id, error_code=code, error_message=message)


async def proven_heartbeat(
    runtime: CoordinatorRuntime[GroupCoordinator], group_id: str, response: R, response_class: Callable[..., R]
) -> R:
    """Return the answer to a heartbeat that gives the member something, once no other coordinator can have taken it away."""
    try:
        return await runtime.proven(runtime.partition_for(group_id), lambda: response)
    except KafkaError as error:
        return refused_heartbeat(error, response_class)


def refused_heartbeat(error: KafkaError, response_class: Callable[..., R]) -> R:
    """Return the answer to a heartbeat that the coordinator refuses; its own words go with its own code only."""
    code = client_error_code(error)
    message = error.message if code == error.code else error_for(code).message
    return response_class(error_code=code, error_message=message)
