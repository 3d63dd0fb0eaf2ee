"""`ottla cluster import`: what it refuses before anything is touched (test_import_on_zookeeper.py does the rest)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess

from ottla.cli.main import main
from ottla.storage.adoption import Adoption, begin, begun
from ottla.storage.files import OsFiles

NOWHERE = "127.0.0.1:1/ottla"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["cluster", "import", *arguments]) in (1, 2)
    return capsys.readouterr().err


def test_what_is_no_directory_of_a_node_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no meta.properties" in refused(capsys, "--data-dir", str(tmp_path), "--zookeeper", NOWHERE)
    (tmp_path / "meta.properties").write_text(
        "version=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id=1\ndirectory.id=d\n"
    )
    assert "has no ottla.sqlite" in refused(capsys, "--data-dir", str(tmp_path), "--zookeeper", NOWHERE)
    assert "say where the cluster is: --zookeeper" in refused(capsys, "--data-dir", str(tmp_path))


def test_a_node_that_runs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with BrokerProcess() as node:
        told = refused(capsys, "--data-dir", str(node.data_dir), "--zookeeper", NOWHERE)
    assert "is in use by another process: stop the broker first" in told


def test_no_broker_starts_on_a_directory_whose_import_was_interrupted() -> None:
    node = BrokerProcess()
    with node:
        node.terminate()
        adoption = Adoption(source_cluster="a", source_node=1, cluster="b", node=2, tree=NOWHERE)
        begin(OsFiles(), [str(node.data_dir)], adoption)
        assert begun(OsFiles(), [str(node.data_dir)]) == adoption
        node.spawn()
        assert node.wait_until_dead(timeout_s=30) == 1
        assert "run ottla cluster import again, with the same options" in node.output
