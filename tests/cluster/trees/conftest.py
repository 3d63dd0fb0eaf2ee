"""A real ZooKeeper ensemble for the tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support import zookeeper_anchor
from tests.support.zookeeper_anchor import ZooKeeperEnsemble


@pytest.fixture(scope="session")
def ensemble() -> Iterator[ZooKeeperEnsemble]:
    """Three servers that nothing happens to; tests keep apart by their chroots."""
    zookeeper_anchor.require()
    ensemble = ZooKeeperEnsemble(3)
    try:
        ensemble.start()
        yield ensemble
    finally:
        ensemble.stop()
