"""A coordination tree as a file, and a tree made of such a file when the one of the cluster is lost.

The file has one JSON object a line: a head, one for each persistent node, and an end that counts them and has their checksum.

What is restored is older than the logs of the brokers, and nothing says by how much. So it is not believed in what the logs
know better, and whatever only grows is raised above all that can have been given out since:

* Leader epochs and the controller's are raised by `EPOCHS_SKIPPED`, producer ids by `IDS_SKIPPED`.
* No replica counts as in sync. All replicas of a partition have to be registered before one of it is elected, the one with
  the longest log (the election of all that were down at once, `decisions.election`); a sole replica leads as it is.
* Broker epochs begin again, and none continues the one under which a replica was in sync.

Log of changes, registrations and what brokers said of their logs are left out. What was written to the tree after the
backup is missing: topics made since are set aside by the brokers, topics deleted since are back, empty. The cluster's id is
written last: without it no broker starts on a tree that is restored half.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from zlib import crc32

from ottla.cluster.image import NO_LEADER
from ottla.cluster.nodes import (
    BROKER_ENDS,
    BROKER_EPOCHS,
    BROKER_IDS,
    BROKER_TOPICS,
    BROKER_UNFIT,
    CHANGES,
    CLUSTER_ID,
    CONTROLLER,
    CONTROLLER_EPOCH,
    PRODUCER_ID_BLOCK,
    PRODUCER_ID_BLOCK_SIZE,
    BrokerEpoch,
    BrokerEpochNode,
    ClusterIdNode,
    ControllerEpochNode,
    Maker,
    PartitionState,
    ProducerIdBlockNode,
    StateNode,
    TopicNode,
)
from ottla.cluster.tree import REQUEST_BYTES_MAX, Create, Operation, SetData, Tree
from ottla.cluster.walking import persistent_nodes

FORMAT: Final = 1
#: More elections than a partition can have had since the backup, and few enough for two thousand restores.
EPOCHS_SKIPPED: Final = 1_000_000
#: More producer ids than can have been given out since the backup.
IDS_SKIPPED: Final = 10**12
#: How often a tree that changes meanwhile is read again.
TRIES_MAX: Final = 5

_STATE: Final = re.compile(rf"{BROKER_TOPICS}/([^/]+)/partitions/(\d+)/state")
_TOPIC: Final = re.compile(rf"{BROKER_TOPICS}/([^/]+)")
_EPOCH: Final = re.compile(rf"{BROKER_EPOCHS}/(\d+)")
#: Below these nothing is restored.
_OF_THE_MOMENT: Final = (CHANGES, BROKER_IDS, BROKER_ENDS, BROKER_UNFIT)


class BadBackupError(Exception):
    """The file is no backup of a tree, or not a whole one. The text is one sentence for the user."""


class RestoreRefusedError(Exception):
    """The tree is not one to restore into. Nothing was changed. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A tree at some moment: data of all persistent nodes, by path. `taken_ms`: when, in ms since 1970."""

    cluster_id: str
    taken_ms: int
    nodes: Mapping[str, bytes]


def backup_of(nodes: Mapping[str, bytes], taken_ms: int) -> Backup:
    """Return a backup of these nodes.

    Raises:
        RestoreRefusedError: there is no cluster in them.
    """
    if CLUSTER_ID not in nodes:
        raise RestoreRefusedError("there is no cluster: is it the right chroot, the right data directory?")
    return Backup(cluster_id=ClusterIdNode.decode(nodes[CLUSTER_ID]), taken_ms=taken_ms, nodes=nodes)


async def read_tree(tree: Tree) -> dict[str, bytes]:
    """Read all persistent nodes; again if the cluster has changed meanwhile, a few times.

    What is torn all the same does no harm: states are not believed when they are restored.
    """
    for _ in range(TRIES_MAX):
        await tree.sync()
        before = await _last_change(tree)
        nodes = {path: node.data for path, node in (await persistent_nodes(tree)).items()}
        if await _last_change(tree) == before:
            break
    return nodes


async def _last_change(tree: Tree) -> str:
    there = (await tree.get_many([CHANGES]))[0] is not None
    return max(await tree.children(CHANGES), default="") if there else ""


# -- the file


def encode(backup: Backup) -> Iterator[bytes]:
    """Yield the lines of the file."""
    head = {"ottla_tree": FORMAT, "cluster_id": backup.cluster_id, "taken_ms": backup.taken_ms}
    line = json.dumps(head).encode() + b"\n"
    checksum = crc32(line)
    yield line
    for path, data in sorted(backup.nodes.items()):
        line = json.dumps({"path": path, **_packed(data)}, ensure_ascii=False).encode() + b"\n"
        checksum = crc32(line, checksum)
        yield line
    yield json.dumps({"end": len(backup.nodes), "crc32": checksum}).encode() + b"\n"


def _packed(data: bytes) -> dict[str, str]:
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def decode(lines: Iterable[bytes]) -> Backup:
    """Read the lines of a file.

    Raises:
        BadBackupError: it is none, of a newer release, cut off, or damaged.
    """
    nodes: dict[str, bytes] = {}
    head: dict[str, Any] | None = None
    checksum = 0
    ended = False
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if head is None:
                if value["ottla_tree"] != FORMAT:
                    raise BadBackupError(f"the backup has format {value['ottla_tree']}, this release knows {FORMAT}")
                head = {name: value[name] for name in ("cluster_id", "taken_ms")}
                checksum = crc32(line)
            elif ended:
                raise ValueError("behind the end")
            elif "end" in value:
                ended = True
                if value["end"] != len(nodes) or value["crc32"] != checksum:
                    raise BadBackupError("the backup is damaged: its checksum is another one")
            else:
                checksum = crc32(line, checksum)
                nodes[value["path"]] = value["data"].encode() if "data" in value else base64.b64decode(value["base64"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadBackupError(f"this is no backup of a coordination tree: line {number} is {line[:40]!r}") from error
    if head is None or not ended:
        raise BadBackupError("the backup is not whole: its end is missing")
    return Backup(nodes=nodes, **head)


# -- what is restored


def restored(backup: Backup) -> dict[str, bytes]:
    """Return the nodes to be written, by path, parents first, the cluster's id last. Pure.

    Raises:
        BadNodeError: a node contains something else than it should.
    """
    made: dict[str, bytes] = {}
    for path, data in sorted(backup.nodes.items(), key=lambda node: (node[0].count("/"), node[0])):
        if path in ("/", CLUSTER_ID, CONTROLLER) or any(path.startswith(f"{root}/") for root in _OF_THE_MOMENT):
            continue
        made[path] = _restored(path, data, backup.nodes)
    made[CLUSTER_ID] = backup.nodes[CLUSTER_ID]
    return made


def _restored(path: str, data: bytes, nodes: Mapping[str, bytes]) -> bytes:
    if path == CONTROLLER_EPOCH:
        return ControllerEpochNode.encode(ControllerEpochNode.decode(data) + EPOCHS_SKIPPED)
    if path == PRODUCER_ID_BLOCK:
        begin = ProducerIdBlockNode.decode(data).start + IDS_SKIPPED
        return ProducerIdBlockNode.encode(-1, range(begin, begin + PRODUCER_ID_BLOCK_SIZE))
    if (found := _EPOCH.fullmatch(path)) is not None:
        known = BrokerEpochNode.decode(int(found[1]), data)
        # Above epoch 0, under which the states below count as in sync: no broker continues that.
        return BrokerEpochNode.encode(BrokerEpoch(directories=known.directories, continues=1))
    if (found := _STATE.fullmatch(path)) is not None:
        return _restored_state(path, data, found[1], int(found[2]), nodes)
    if (found := _TOPIC.fullmatch(path)) is not None:
        assignment = TopicNode.decode(found[1], data)
        if assignment.creating is not None:  # its maker is gone: the controller finishes it
            maker = Maker(node_id=assignment.creating.node_id, broker_epoch=-1)
            return TopicNode.encode(replace(assignment, creating=maker))
    return data


def _restored_state(path: str, data: bytes, topic: str, index: int, nodes: Mapping[str, bytes]) -> bytes:
    before = StateNode.decode(path, data)
    partitions = TopicNode.decode(topic, nodes[TopicNode.path(topic)]).partitions
    replicas = partitions[index] if index < len(partitions) else before.isr
    members = tuple(dict.fromkeys((*replicas, *before.isr)))
    return StateNode.encode(
        PartitionState(
            leader=NO_LEADER,
            leader_epoch=before.leader_epoch + EPOCHS_SKIPPED,
            isr=members,
            controller_epoch=before.controller_epoch,
            isr_epochs=(0,) * len(members),
            topic_id=before.topic_id,
        )
    )


async def restore(tree: Tree, nodes: Mapping[str, bytes]) -> None:
    """Write what `restored` returned into a tree without a cluster. What was interrupted may be repeated.

    Raises:
        RestoreRefusedError: there is a cluster in the tree; nothing was changed.
        TreeError: another process has begun a cluster in it meanwhile.
        TreeUnavailableError: the tree cannot be reached; repeating is right.
    """
    await tree.sync()
    if (await tree.get_many([CLUSTER_ID]))[0] is not None:
        raise RestoreRefusedError(
            "there is a cluster already: restore into an empty chroot, or an empty data directory"
        )
    for chunk in _chunks(nodes):
        existing = await tree.get_many(chunk)
        operations: list[Operation] = [
            Create(path, nodes[path]) if node is None else SetData(path, nodes[path], node.stat.version)
            for path, node in zip(chunk, existing, strict=True)
            if node is None or node.data != nodes[path]
        ]
        if operations:
            await tree.multi(operations)


def _chunks(nodes: Mapping[str, bytes]) -> Iterator[list[str]]:
    """Divide nodes into transactions, the cluster's id alone in the last one."""
    some: list[str] = []
    size = 0
    for path, data in nodes.items():
        if some and (len(some) == 200 or size + len(data) > REQUEST_BYTES_MAX // 3 or path == CLUSTER_ID):
            yield some
            some, size = [], 0
        some.append(path)
        size += len(data)
    if some:
        yield some
