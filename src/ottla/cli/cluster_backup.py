"""`ottla cluster backup` and `restore`: the coordination tree as a file, for the day on which ZooKeeper's data are lost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from ottla.broker.broker import TREE_FILE
from ottla.broker.config import BrokerConfig
from ottla.cli.output import note
from ottla.cli.running import confirm
from ottla.cli.tree_access import ensemble, read_settings, run_on_tree, tree_file, tree_options
from ottla.clock import SystemClock
from ottla.cluster.backup import (
    BadBackupError,
    RestoreRefusedError,
    backup_of,
    decode,
    encode,
    read_tree,
    restore,
    restored,
)
from ottla.cluster.nodes import BROKER_TOPICS
from ottla.cluster.preparation import check_ours
from ottla.cluster.trees.sqlite_nodes import read_file
from ottla.errors import StorageError
from ottla.storage.adoption import held
from ottla.storage.files import OsFiles


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@tree_options
def backup_command(
    file: str, properties: str | None, zookeeper: str | None, data_dir: str | None, overrides: Sequence[str]
) -> None:
    """Write the cluster's coordination tree to FILE, while everything runs.

    \b
      ottla cluster backup tree.jsonl --zookeeper zk1:2181,zk2:2181,zk3:2181/ottla
      ottla cluster backup tree.jsonl --data-dir /var/lib/ottla       of a single node, of `cluster up`, of --workers

    It has topics, where their replicas are, settings, users and access rules, but no records: those are in the brokers' logs.
    Only its owner may read the file: it holds what passwords are checked with. An existing FILE is replaced once the new one
    is whole.
    """
    config = read_settings(properties, data_dir, zookeeper, overrides, 1)
    nodes = run_on_tree(_read(config))
    try:
        backup = backup_of(nodes, SystemClock().wall_ms())
    except RestoreRefusedError as error:
        raise click.ClickException(str(error)) from None
    unfinished = f"{file}.part"
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.writelines(encode(backup))
        out.flush()
        os.fsync(out.fileno())
    os.replace(unfinished, file)
    note(f"{file}: cluster {backup.cluster_id}, {_topics(backup.nodes)} topics, {len(backup.nodes)} nodes")


async def _read(config: BrokerConfig) -> dict[str, bytes]:
    if config.zookeeper is None:
        path = f"{config.log_dirs[0]}/{TREE_FILE}"
        if not OsFiles().exists(path):
            raise StorageError(
                f"{config.log_dirs[0]} has no {TREE_FILE}: name the cluster with --zookeeper or --data-dir"
            )
        return read_file(path)
    async with ensemble(config) as tree:
        await check_ours(tree)
        return await read_tree(tree)


@click.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@tree_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore_command(
    file: str,
    properties: str | None,
    zookeeper: str | None,
    data_dir: str | None,
    overrides: Sequence[str],
    yes: bool,
) -> None:
    """Make a coordination tree of the backup in FILE, because the one of the cluster is lost.

    \b
      ottla cluster restore tree.jsonl --zookeeper zk1:2181,zk2:2181,zk3:2181/ottla

    Stop all brokers first. The chroot has to be empty; in a data directory, move what is left of ottla.sqlite away. Then
    start the brokers: each partition is led by the longest of its logs, once all its replicas are there. What was changed
    after the backup is missing: topics made since are set aside (`*-stray` in the log directories), topics deleted since are
    back.
    """
    config = read_settings(properties, data_dir, zookeeper, overrides, 1)
    try:
        with open(file, "rb") as lines:
            backup = decode(lines)
    except BadBackupError as error:
        raise click.ClickException(f"{file}: {error}") from None
    nodes = restored(backup)
    taken = datetime.fromtimestamp(backup.taken_ms / 1000, UTC)
    where = config.zookeeper if config.zookeeper is not None else config.log_dirs[0]
    what = (
        f"cluster {backup.cluster_id} as of {taken:%Y-%m-%d %H:%M:%S} UTC, {_topics(backup.nodes)} topics, to {where}"
    )
    confirm(f"Are all its brokers stopped, and restore {what}?", yes=yes)
    if config.zookeeper is None:
        _restore_file(config, nodes)
    else:
        run_on_tree(_restore_ensemble(config, nodes), RestoreRefusedError)
    note(f"restored {what}: start the brokers now")


async def _restore_ensemble(config: BrokerConfig, nodes: dict[str, bytes]) -> None:
    async with ensemble(config) as tree:
        await check_ours(tree)
        await restore(tree, nodes)


def _restore_file(config: BrokerConfig, nodes: dict[str, bytes]) -> None:
    directory = Path(config.log_dirs[0])
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with held(OsFiles(), [str(directory)]):

            async def write() -> None:
                async with tree_file(str(directory / TREE_FILE)) as tree:
                    await restore(tree, nodes)

            run_on_tree(write(), RestoreRefusedError)
    except StorageError as error:
        raise click.ClickException(str(error)) from None


def _topics(nodes: Mapping[str, bytes]) -> int:
    return sum(path.startswith(f"{BROKER_TOPICS}/") and path.count("/") == 3 for path in nodes)
