"""The workers of one machine ask one another for their pages, over Unix sockets beside that of the coordination tree.

A worker gives its `/metrics` to each process of its own user that connects to `N.sock`, N being its broker id. The one that
answers HTTP on the port that all share makes one page of them (`workers_page`). If a worker does not answer there is no page:
a sum without it would look as if all that it has counted had not been.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ottla.broker.http.workers_page import workers_page
from ottla.network.http import Handler, HttpResponse, LaterResponse
from ottla.observability.exposition import CONTENT_TYPE

logger = logging.getLogger(__name__)

#: For all workers to give their pages: less than the ten seconds after which Prometheus gives up.
ANSWER_SECONDS: Final = 8.0
#: Behind a page, as in OpenMetrics: a worker that dies has not given all of it.
_END: Final = b"# EOF\n"
_SLICE: Final = 64 * 1024


class Workers:
    """Serves this worker's page to the others, and makes one page of all.

    Args:
        directory: holds the sockets of all workers.
        number: this worker's broker id.
        page: makes this worker's page, in steps.
        others: ids of the brokers that are registered, this one among them or not.
    """

    def __init__(
        self, directory: str, number: int, *, page: Callable[[], Iterator[bytes]], others: Callable[[], Iterable[int]]
    ) -> None:
        self._directory = directory
        self._number = number
        self._page = page
        self._others = others
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def socket_of(self, number: int) -> str:
        """Return the path of a worker's socket; it is no longer than that of the coordination tree's."""
        return f"{self._directory}/{number}.sock"

    async def start(self) -> None:
        """Serve the page. If the socket cannot be made, the log says so, and there is no page of all workers."""
        path = self.socket_of(self._number)
        umask = os.umask(0o177)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._server = await asyncio.start_unix_server(self._give, path)
        except OSError as error:
            logger.warning("the socket %s cannot be made (%s): /metrics of all workers does not work", path, error)
        finally:
            os.umask(umask)

    async def stop(self) -> None:
        """Give no more pages."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.socket_of(self._number))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def handler(self, handle: Callable[[str], HttpResponse]) -> Handler:
        """Return what answers on the port that all share: `handle`, but for `/metrics`."""
        return lambda path: self._begin() if path == "/metrics" else handle(path)

    def _begin(self) -> LaterResponse:
        later = LaterResponse()
        task = asyncio.get_running_loop().create_task(self._answer(later), name="workers-page")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return later

    async def _answer(self, later: LaterResponse) -> None:
        numbers = sorted({*self._others(), self._number})
        pages = await asyncio.gather(*(self._page_of(number) for number in numbers))
        silent = [str(number) for number, page in zip(numbers, pages, strict=True) if page is None]
        if silent:
            text = (
                f"Worker {', '.join(silent)} does not answer, and a sum without it would be wrong. Each worker's own port "
                "has its own /metrics.\n"
            )
            later.resolve(HttpResponse(status=503, body=text.encode()))
            return
        found = {number: page for number, page in zip(numbers, pages, strict=True) if page is not None}
        later.resolve(HttpResponse(body=workers_page(found), content_type=CONTENT_TYPE))

    async def _page_of(self, number: int) -> bytes | None:
        if number == self._number:
            return await _made(self._page())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self.socket_of(number))
                try:
                    page = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        return page.removesuffix(_END) if page.endswith(_END) else None

    async def _give(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(await _made(self._page()) + _END)
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()


async def _made(page: Iterator[bytes]) -> bytes:
    """Return a page as a whole; others have their turn between its steps."""
    parts: list[bytes] = []
    size = 0
    for part in page:
        parts.append(part)
        size += len(part)
        if not part or size >= _SLICE:
            size = 0
            await asyncio.sleep(0)
    return b"".join(parts)
