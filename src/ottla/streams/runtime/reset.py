"""Starting an application over: its internal topics, offsets and state are removed; the next start begins at the beginning.

As Kafka's `kafka-streams-application-reset` does, and the state of this machine besides. State on other machines is found
to be of topics that are gone, and rebuilt.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import ottla
from ottla.client.admin_errors import AdminErrors
from ottla.errors import GroupIdNotFoundError
from ottla.streams.errors import StreamsError
from ottla.streams.runtime.settings import StreamsSettings
from ottla.streams.state.directory import StateDirectory
from ottla.streams.topology import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a reset removes, or has removed."""

    topics: tuple[str, ...]
    group: bool
    directory: Path | None


def reset(topology: Topology, settings: StreamsSettings, *, dry_run: bool = False) -> Removed:
    """Remove internal topics, committed offsets and this machine's state.

    Args:
        dry_run: only say what would be removed.

    Raises:
        StreamsError: an instance is still running.
        AdminErrors, KafkaError: the cluster refuses.
    """
    application_id = settings.application_id
    with ottla.Admin(config=settings.admin) as admin:
        try:
            group = admin.describe_group(application_id)
        except GroupIdNotFoundError:
            group = None
        if group is not None and group.state == "Dead":  # what older brokers say of a group that is not there
            group = None
        if group is not None and group.members:
            count = len(group.members)
            raise StreamsError(
                f"The group {application_id!r} has {count} member{'' if count == 1 else 's'}: stop all instances first "
                "(one that was killed counts until its session.timeout.ms is over)."
            )
        known = {topic.name for topic in admin.list_topics()}
        wanted = set(topology.repartition_topics)
        wanted |= {
            spec.changelog
            for sub in topology.sub_topologies
            for spec in sub.stores
            if spec.changelog is not None and not spec.source_changelog
        }
        directory = settings.state_dir / application_id
        removed = Removed(
            topics=tuple(sorted(known & wanted)),
            group=group is not None,
            directory=directory if directory.exists() else None,
        )
        if dry_run:
            return removed
        if removed.directory is not None:
            _remove(settings)
        if removed.topics:
            admin.delete_topics(removed.topics)
        if removed.group:
            try:
                admin.delete_group(application_id)
            except GroupIdNotFoundError:
                pass  # a group without offsets ends by itself
            except AdminErrors as error:
                raise StreamsError(f"the offsets of {application_id!r} were not removed: {error}") from error
    return removed


def _remove(settings: StreamsSettings) -> None:
    directory = StateDirectory(settings.state_dir, settings.application_id)
    try:
        if directory.slot != 0:
            raise StreamsError(f"{directory.path} is in use: stop all instances on this machine first.")
        for task in directory.tasks_on_disk():
            directory.lock_task(task)
            shutil.rmtree(directory.task_path(task))
    finally:
        directory.close()
