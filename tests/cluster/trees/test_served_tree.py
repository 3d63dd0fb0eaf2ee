"""The tree of one machine: sessions outlive its server, and not their processes; strangers are kept out."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ottla.cluster.tree import Create, NotSentError, SessionState, TreeUnavailableError
from ottla.cluster.trees.served import ServedTree
from ottla.cluster.trees.serving import TreeServer
from ottla.offload import InlineOffload


@pytest.fixture
def directory() -> str:
    """A short path: it holds a socket."""
    return tempfile.mkdtemp(prefix="tree-")


@pytest.fixture
async def server(directory: str) -> AsyncIterator[TreeServer]:
    made = server_in(directory)
    await made.start()
    yield made
    await made.stop()


def server_in(directory: str) -> TreeServer:
    return TreeServer(f"{directory}/tree.db", f"{directory}/tree.sock", InlineOffload())


async def session(server: TreeServer, timeout_ms: int = 18_000) -> ServedTree:
    tree = ServedTree(server.socket_path, session_timeout_ms=timeout_ms, connection_timeout_ms=5_000)
    await tree.open()
    return tree


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_only_this_user_may_connect(server: TreeServer) -> None:
    assert stat.S_IMODE(os.stat(server.socket_path).st_mode) == 0o600


async def test_a_session_outlives_the_server(directory: str) -> None:
    """1. Its server goes away: the session is suspended, nothing is sent. 2. The next server takes it up with its nodes."""
    first = server_in(directory)
    await first.start()
    tree = await session(first)
    states: list[SessionState] = []
    told: list[str] = []
    tree.watch_state(states.append)
    await tree.multi([Create("/a", ephemeral=True)])
    await first.stop()
    await until(lambda: states == [SessionState.SUSPENDED])
    with pytest.raises(NotSentError):
        await tree.multi([Create("/b")])
    second = server_in(directory)
    await second.start()
    assert second.has_absent
    tree.watch_children("/", lambda: told.append("/"))
    await until(lambda: states == [SessionState.SUSPENDED, SessionState.CONNECTED])
    assert not second.has_absent
    await until(lambda: told != [])  # something may have changed meanwhile
    node = await tree.get("/a")
    assert node.stat.owner == tree.session_id
    await tree.close()
    await second.stop()


async def test_a_session_ends_with_its_process(server: TreeServer) -> None:
    """Killed, it cannot say so: the server sees that the process has ended, long before the timeout."""
    source = f"""
import asyncio
from ottla.cluster.tree import Create
from ottla.cluster.trees.served import ServedTree

async def main():
    tree = ServedTree({server.socket_path!r}, session_timeout_ms=600_000, connection_timeout_ms=30_000)
    await tree.open()
    await tree.multi([Create("/theirs", ephemeral=True)])
    print("made", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"made\n"
    tree = await session(server)
    gone = asyncio.Event()
    assert await tree.children("/") == ["theirs"]
    tree.watch_children("/", gone.set)
    process.send_signal(signal.SIGSTOP)  # that alone ends nothing
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with asyncio.timeout(20):
        while await tree.children("/"):
            gone.clear()
            await gone.wait()
    await tree.close()


async def test_a_silent_session_ends_after_its_timeout(server: TreeServer) -> None:
    silent = await session(server, timeout_ms=1_000)
    await silent.multi([Create("/a", ephemeral=True)])
    silent._tasks[1].cancel()  # its pings
    await until(lambda: silent.state is SessionState.ENDED)
    tree = await session(server)
    assert await tree.children("/") == []
    await tree.close()
    await silent.close()


async def test_what_is_wrong_is_one_sentence(directory: str, tmp_path: Path) -> None:
    long = TreeServer(f"{directory}/tree.db", f"{directory}/{'x' * 100}", InlineOffload())
    with pytest.raises(TreeUnavailableError, match="is too long for a socket, which takes 107 bytes"):
        await long.start()
    nowhere = ServedTree(f"{directory}/none.sock", session_timeout_ms=1_000, connection_timeout_ms=200)
    with pytest.raises(TreeUnavailableError, match="no supervisor serves the coordination tree on"):
        await nowhere.open()
