"""The tree in memory: sessions that end on command."""

from __future__ import annotations

import asyncio

import pytest

from ottla.cluster.tree import Create, SessionEndedError, SessionState
from ottla.cluster.trees.memory import MemoryStore


async def test_a_session_can_expire() -> None:
    store = MemoryStore()
    broker, other = store.session(), store.session()
    await broker.multi([Create("/id", ephemeral=True)])
    await asyncio.sleep(0)
    news: list[None] = []
    states: list[SessionState] = []
    other.watch_children("/", lambda: news.append(None))
    broker.watch_state(states.append)

    broker.expire()

    assert states == []  # the caller is done first
    await asyncio.sleep(0)
    assert await other.get_many(["/id"]) == [None]
    assert (len(news), states) == (1, [SessionState.ENDED])
    with pytest.raises(SessionEndedError):
        await broker.get("/")
