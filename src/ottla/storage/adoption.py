"""A single node's log directories on their way into a cluster: marked while that is under way, then given to their broker.

While `cluster-import.json` lies in a log directory no broker starts on it: part of its topics may not be in the cluster's
tree yet, and a broker would set their logs aside. `finish` gives the directories their new owner and moves the node's own
tree out of the way; each of its steps may be done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

from ottla.errors import StorageError
from ottla.failpoints import hit
from ottla.storage.checkpoints import LOCK_FILE, META_PROPERTIES_FILE
from ottla.storage.files import Files
from ottla.storage.log_directory import IMPORT_FILE, read_meta_properties

#: What a node's own tree is called once a cluster has taken it over.
IMPORTED_SUFFIX: Final = ".imported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """From where to where: what `cluster-import.json` says.

    Attributes:
        source_cluster, source_node: ids of the node.
        cluster, node: id of the cluster, and the broker id in it.
        tree: where the cluster's tree is, for people.
    """

    source_cluster: str
    source_node: int
    cluster: str
    node: int
    tree: str


@contextmanager
def held(files: Files, directories: Sequence[str]) -> Iterator[None]:
    """Hold the locks of log directories.

    Raises:
        StorageError: a broker runs on one, or there is no such directory.
    """
    with ExitStack() as stack:
        for path in directories:
            if not files.is_dir(path):
                raise StorageError(f"{path} is no directory")
            try:
                stack.callback(files.lock(f"{path}/{LOCK_FILE}").close)
            except BlockingIOError:
                raise StorageError(f"{path} is in use by another process: stop the broker first") from None
        yield


def begun(files: Files, directories: Sequence[str]) -> Adoption | None:
    """Return the adoption that is under way; None if there is none.

    Raises:
        StorageError: the directories contradict each other, or the file is none of ours.
    """
    found = None
    for path in directories:
        name = f"{path}/{IMPORT_FILE}"
        if not files.exists(name):
            continue
        try:
            value = json.loads(files.read_bytes(name))
            this = Adoption(**{key: value[key] for key in Adoption.__slots__})
        except (ValueError, KeyError, TypeError):
            raise StorageError(f"{name} cannot be read: is it a file of ottla?") from None
        if found not in (None, this):
            raise StorageError(f"{name} contradicts those of the other log directories")
        found = this
    return found


def begin(files: Files, directories: Sequence[str], adoption: Adoption) -> None:
    """From now on no broker starts on these directories."""
    for path in directories:
        files.write_atomic(f"{path}/{IMPORT_FILE}", json.dumps(asdict(adoption)).encode())


def finish(files: Files, directories: Sequence[str], tree_file: str, adoption: Adoption) -> None:
    """Everything is in the cluster's tree: the directories are its broker's from now on."""
    for path in directories:
        known = read_meta_properties(files, path)
        assert known is not None, path
        mine = replace(known, cluster_id=adoption.cluster, node_id=adoption.node)
        if mine != known:
            files.write_atomic(f"{path}/{META_PROPERTIES_FILE}", mine.encode())
        hit("import.properties")
    first = tree_file.rpartition("/")[0]
    if files.exists(tree_file):
        files.rename(tree_file, tree_file + IMPORTED_SUFFIX)
        files.sync_dir(first)
    hit("import.tree")
    for path in directories:
        if files.exists(f"{path}/{IMPORT_FILE}"):
            files.remove(f"{path}/{IMPORT_FILE}")
            files.sync_dir(path)
