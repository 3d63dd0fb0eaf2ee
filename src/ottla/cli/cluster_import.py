"""`ottla cluster import`: the directory of a single node becomes that of one broker of a cluster on ZooKeeper.

Holds the directories, marks them, writes the tree, gives them to the broker: in this order, so that whatever interrupts it,
it can be run again. What goes into the tree is decided in `cluster/importing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from ottla.broker.broker import TREE_FILE
from ottla.broker.config import BrokerConfig
from ottla.cli.output import note
from ottla.cli.tree_access import ensemble, read_settings, run_on_tree, tree_file, tree_options
from ottla.clock import SystemClock
from ottla.cluster.importing import (
    ImportPlan,
    ImportRefusedError,
    SingleNode,
    check_import,
    read_single_node,
    write_import,
)
from ottla.cluster.preparation import check_ours, cluster_id_of, prepare_tree
from ottla.errors import StorageError
from ottla.failpoints import hit
from ottla.storage.adoption import IMPORTED_SUFFIX, Adoption, begin, begun, finish, held
from ottla.storage.checkpoints import MetaProperties
from ottla.storage.files import OsFiles
from ottla.storage.log_directory import read_meta_properties


@click.command("import")
@click.option("--broker-id", type=int, metavar="N", help="The broker's id in the cluster. Default: what the node has.")
@click.option("--dry-run", is_flag=True, help="Say what would be taken over, and change nothing.")
@tree_options
def import_node(
    properties: str | None,
    zookeeper: str | None,
    data_dir: str | None,
    overrides: Sequence[str],
    broker_id: int | None,
    dry_run: bool,
) -> None:
    """Make the directory of a single node that of one broker of a cluster.

    \b
      ottla cluster import --data-dir /var/lib/ottla --zookeeper zk1:2181,zk2:2181,zk3:2181/ottla
      ottla serve --data-dir /var/lib/ottla --zookeeper zk1:2181,zk2:2181,zk3:2181/ottla --broker-id 1 --host 0.0.0.0

    Stop the node first. Its topics with their ids and records, settings, groups with their offsets, transactions,
    producer ids, users and access rules go into the cluster; clients go on where they were. What has a name that the
    cluster knows already is refused. If it is interrupted, run it again: no broker starts on the directory until it is
    done.

    Topics keep one replica; docs/operations.md says how they get more once there are other brokers.
    """
    first_look = read_settings(properties, data_dir, zookeeper, overrides, 1 if broker_id is None else broker_id)
    owner = _owner(first_look.log_dirs)
    node_id = broker_id if broker_id is not None else (1 if owner.node_id is None else owner.node_id)
    config = read_settings(properties, data_dir, zookeeper, overrides, node_id)
    if config.zookeeper is None:
        raise click.UsageError("say where the cluster is: --zookeeper, or zookeeper.connect in server.properties")
    with_locks(config, node_id, owner, dry_run=dry_run)


def _owner(directories: Sequence[str]) -> MetaProperties:
    try:
        known = read_meta_properties(OsFiles(), directories[0])
    except (StorageError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if known is None or known.cluster_id is None:
        raise click.ClickException(f"{directories[0]} is no data directory of a node: it has no meta.properties")
    return known


def with_locks(config: BrokerConfig, node_id: int, owner: MetaProperties, *, dry_run: bool) -> None:
    """Import while no broker can use the directories."""
    files, directories = OsFiles(), config.log_dirs
    try:
        with held(files, directories):
            run_on_tree(_import(config, node_id, owner, dry_run=dry_run), ImportRefusedError)
    except StorageError as error:
        raise click.ClickException(str(error)) from None


async def _import(config: BrokerConfig, node_id: int, owner: MetaProperties, *, dry_run: bool) -> None:
    files, directories = OsFiles(), config.log_dirs
    path = f"{directories[0]}/{TREE_FILE}"
    under_way = begun(files, directories)
    if not files.exists(path) and not (under_way is not None and files.exists(path + IMPORTED_SUFFIX)):
        done = files.exists(path + IMPORTED_SUFFIX)
        raise ImportRefusedError(
            f"{directories[0]} was imported into the cluster {owner.cluster_id} already"
            if done
            else f"{directories[0]} has no {TREE_FILE}: it is not the directory of a single node"
        )
    async with ensemble(config) as tree:
        await check_ours(tree)
        cluster_id = await cluster_id_of(tree)
        adoption = under_way
        if adoption is None:
            assert owner.cluster_id is not None
            adoption = Adoption(
                source_cluster=owner.cluster_id,
                source_node=1 if owner.node_id is None else owner.node_id,
                cluster=cluster_id or owner.cluster_id,
                node=node_id,
                tree=str(config.zookeeper),
            )
        elif (adoption.cluster, adoption.node) != (cluster_id or adoption.cluster, node_id):
            raise ImportRefusedError(
                f"an import of {directories[0]} into the cluster {adoption.cluster} ({adoption.tree}) as broker "
                f"{adoption.node} was interrupted: finish that first"
            )
        if files.exists(path):
            async with tree_file(path) as own:
                await prepare_tree(own, adoption.source_cluster)
                source = await read_single_node(own, adoption.source_cluster, adoption.source_node)
            ids = _directory_ids(directories, source)
            if not dry_run:
                await prepare_tree(tree, adoption.cluster)
            plan = await check_import(tree, source, node_id, ids)
            note(_summary(source, plan, adoption))
            if dry_run:
                return
            begin(files, directories, adoption)
            hit("import.begin")
            await write_import(tree, plan, SystemClock().wall_ms(), lambda name: hit(f"import.{name}"))
        if dry_run:
            note("everything is in the cluster's tree already; what is left is to give the directory to its broker")
            return
        finish(files, directories, path, adoption)
    note(f"done: start the broker with --zookeeper {config.zookeeper} --broker-id {node_id}")


def _directory_ids(directories: Sequence[str], source: SingleNode) -> list[str]:
    """Return the ids of the log directories, all that the node has used."""
    known = [read_meta_properties(OsFiles(), path) for path in directories]
    ids = [properties.directory_id for properties in known if properties is not None and properties.directory_id]
    if len(ids) < len(directories) or not set(source.epoch.directories) <= set(ids):
        raise ImportRefusedError(
            f"the node has used other log directories than {', '.join(directories)}: name all of them (log.dirs), as it was "
            "started with"
        )
    return ids


def _summary(source: SingleNode, plan: ImportPlan, adoption: Adoption) -> str:
    partitions = sum(len(topic.states) for topic in source.topics)
    return (
        f"{len(source.topics)} topics with {partitions} partitions and {len(plan.others)} settings and rules: from "
        f"the node of cluster {adoption.source_cluster} to the cluster {adoption.cluster} on {adoption.tree}, as broker "
        f"{adoption.node}"
    )
