"""A Connect worker as a child process of the single broker: `ottla serve --connect`.

The broker and its worker share nothing but the wire. The child is started when the broker is ready, and started again, with
growing pauses, when it ends. The broker stops it first: connectors write down what they have done while there is a broker
to write it to. When the broker is killed the child goes with it: the system kills it (Linux), and its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ottla.cli.supervisor import python

if TYPE_CHECKING:
    from ottla.broker.settings.listeners import Listener

logger = logging.getLogger(__name__)

PAUSE_S_MIN, PAUSE_S_MAX = 0.5, 30.0
#: A child that has run for so long is started again after the shortest pause.
STEADY_S: Final = 60.0
#: How long a child has to end before it is killed. It needs less: `task.shutdown.graceful.timeout.ms` and
#: `offset.flush.timeout.ms`, 5 s each.
STOP_S: Final = 60.0


def listener_for_connect(listeners: Sequence[Listener], worker: Mapping[str, str]) -> Listener:
    """Return the listener at which Connect reaches the broker: the first where its clients can log in.

    Args:
        worker: the worker's own configuration.

    Raises:
        ValueError: there is none. The text is for people.
    """
    protocol = worker.get("security.protocol", "PLAINTEXT").upper()
    for listener in listeners:
        if listener.security_protocol == protocol:
            return listener
    if "bootstrap.servers" in worker:
        return listeners[0]
    have = ", ".join(dict.fromkeys(listener.security_protocol for listener in listeners))
    raise ValueError(
        f"Connect has no way to log in at this broker: no listener has security.protocol={protocol}, there is {have}. Name a "
        "file by --connect-config that says security.protocol, and sasl.* or ssl.*, as a client of this broker has them"
    )


class ConnectChild:
    """Keeps the worker running from `start` until `stop`.

    Args:
        config_path: of the worker's own configuration, if there is one.
        stop_s: how long the child has to end.
    """

    def __init__(self, config_path: str | None, *, stop_s: float = STOP_S) -> None:
        self._config_path = config_path
        self._stop_s = stop_s
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def start(self, server: str) -> None:
        """Start the worker.

        Args:
            server: host:port of the broker.
        """
        self._keeping = asyncio.get_running_loop().create_task(self._keep(server))

    async def stop(self) -> None:
        """Have the worker end, and wait until it has; kill it when its time is over."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await process.wait()
        except TimeoutError:
            logger.error(
                "Connect has not ended within %g s: it is killed, and some records may come again", self._stop_s
            )
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep(self, server: str) -> None:
        pause_s, loop = PAUSE_S_MIN, asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                # A session of its own: Ctrl-C reaches the broker alone, which stops the child first.
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(server), stdin=asyncio.subprocess.PIPE, start_new_session=True
                )
                logger.info("Connect runs as process %d", self._process.pid)
                how = f"has ended with code {await self._process.wait()}"
            except OSError as error:
                how = f"cannot be started ({error.strerror or error})"
            if loop.time() - began > STEADY_S:
                pause_s = PAUSE_S_MIN
            logger.warning("Connect %s: it is started again in %g s", how, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    def _command(self, server: str) -> list[str]:
        config = [] if self._config_path is None else ["--config", self._config_path]
        return [*python(), "connect", "beside-broker", "--server", server, "--parent", str(os.getpid()), *config]
