"""Producer ids: taken from blocks of 1,000 that the coordination tree guards, so that no id is ever given twice."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)


class ProducerIdBlock:
    """The ids this broker may give away."""

    def __init__(self, allocate: Callable[[], Awaitable[range]]) -> None:
        self._allocate = allocate
        self._left = range(0)
        self._refill: asyncio.Task[None] | None = None

    async def reserve(self) -> None:
        """Return when there is an id at hand: the next `take`, without an await between, has one.

        Raises:
            KafkaError: the tree cannot be asked.
        """
        while not self._left:
            # Two requests may both find the block used up; each then takes one, and at worst 1,000 ids are skipped.
            self._left = await self._allocate()

    def take(self) -> int | None:
        """Return an id, or None if none is at hand; then a block is fetched for later calls."""
        if not self._left:
            if self._refill is None or self._refill.done():
                self._refill = asyncio.get_running_loop().create_task(self._try_reserve())
            return None
        producer_id = self._left[0]
        self._left = self._left[1:]
        return producer_id

    async def next(self) -> int:
        """Return an id.

        Raises:
            KafkaError: the tree cannot be asked.
        """
        await self.reserve()
        producer_id = self.take()
        assert producer_id is not None
        return producer_id

    async def stop(self) -> None:
        """Cancel the fetch of a block."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)

    async def _try_reserve(self) -> None:
        try:
            await self.reserve()
        except Exception as error:
            logger.warning("no producer ids: %s", error)
