"""A data directory that has lost its meta.properties is not given a new identity behind the user's back."""

from __future__ import annotations

import pytest

from ottla.errors import StorageError
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual


def test_missing_meta_properties_beside_a_tree_is_said_and_nothing_is_written() -> None:
    async def story(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop)
        await node.start()
        await node.stop()
        node.files.remove("data/meta.properties")
        node.files.write_atomic("data/ottla.sqlite", b"")
        names = node.files.listdir("data")
        with pytest.raises(StorageError, match=r"meta\.properties is missing"):
            await node.start()
        assert node.files.listdir("data") == names

    run_virtual(1, story)
