"""Supervisor: several brokers of one machine, each a process, and the coordination tree that they share.

Starts them, starts anew those that end, with growing pauses, and stops them. If it is killed itself they go on: it holds no
pipe of theirs, and their sessions with the tree are suspended. The next supervisor of the same directory serves the tree
again, takes the brokers over that still run (each holds the lock of its directory and has written its process id there), and
starts the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ottla.cli.terminal import complain, say
from ottla.cluster.nodes import BROKER_TOPICS
from ottla.cluster.tree import NoNodeError, TreeUnavailableError

if TYPE_CHECKING:
    from ottla.cluster.trees.serving import TreeServer

logger = logging.getLogger(__name__)

#: In the data directory: of the single broker that may have been there before, too.
TREE_FILE: Final = "ottla.sqlite"
SOCKET_FILE: Final = "tree.sock"
LOCK_FILE: Final = "supervisor.lock"
#: In the directory of each broker.
PID_FILE: Final = "broker.pid"
#: Beside the first broker's data, which lie in the data directory itself.
OTHERS: Final = "brokers"

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.2, 10.0
#: A broker that has run for so long is started anew at once.
STEADY_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.2
READY_SECONDS: Final = 120.0
#: Longer than a broker waits until others lead what they can.
STOP_SECONDS: Final = 40.0


class SupervisorError(Exception):
    """The brokers cannot be started. The text is one sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to run.

    Attributes:
        data_dir: holds everything.
        count: how many brokers.
        port: of the first broker; the next ones have the next ports.
        command: what starts a broker, given its number and its directory.
        has_tree: whether the tree is served here; False: it is on ZooKeeper.
        host: by which this machine reaches its brokers.
    """

    data_dir: str
    count: int
    port: int
    command: Callable[[int, str], Sequence[str]]
    has_tree: bool
    host: str = "127.0.0.1"

    def directory(self, number: int) -> str:
        """Return the directory of a broker. The first one's is the data directory itself: a single broker's becomes its."""
        return self.data_dir if number == 1 else f"{self.data_dir}/{OTHERS}/{number}"

    @property
    def socket(self) -> str:
        return f"{self.data_dir}/{SOCKET_FILE}"


class Worker:
    """One broker: a child process, or one that an earlier supervisor has left running."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.number = number
        self.port = plan.port + number - 1
        self._plan = plan
        self._child: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    @property
    def directory(self) -> str:
        return self._plan.directory(self.number)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else self._pid

    def adopt(self) -> bool:
        """Take over the broker that runs in this directory. Return whether there is one.

        Raises:
            SupervisorError: something runs there that no supervisor has started.
        """
        if not _is_locked(f"{self.directory}/.lock"):
            return False
        pid = read_pid(self.directory)
        if pid is None:
            raise SupervisorError(
                f"{self.directory} is in use by a broker that no supervisor has started: stop that first"
            )
        port = read_port(self.directory)
        if port not in (None, self.port):
            raise SupervisorError(
                f"broker {self.number} of {self.directory} runs already, on port {port}: say --port "
                f"{port - self.number + 1}, or stop it first (kill {pid})"
            )
        self._pid = pid
        return True

    def start(self) -> None:
        os.makedirs(self.directory, exist_ok=True)
        # A session of its own: Ctrl-C and the end of the terminal reach the supervisor alone.
        self._child = subprocess.Popen(
            self._plan.command(self.number, self.directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._pid is not None and read_pid(self.directory) == self._pid

    @property
    def exit_code(self) -> int | None:
        """Of the last process, if it was a child."""
        return None if self._child is None else self._child.poll()

    def signal(self, kind: signal.Signals) -> None:
        if self.pid is not None and self.is_running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, kind)

    async def is_ready(self) -> bool:
        """Return whether it serves clients."""
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection(self._plan.host, self.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


class Supervisor:
    """Runs a plan. `run` returns when it was told to stop."""

    def __init__(self, plan: Plan, server: TreeServer | None) -> None:
        self._plan = plan
        self._server = server
        self._workers = [Worker(plan, number) for number in range(1, plan.count + 1)]
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Have `run` stop everything and return."""
        self._told.set()

    async def run(self, announce: Callable[[], None]) -> int:
        """Start the brokers and keep them running; return the exit code.

        Raises:
            SupervisorError, TreeUnavailableError: what keeps it from starting; nothing runs then.
        """
        adopted = [worker for worker in self._workers if worker.adopt()]
        if self._server is not None:
            await self._server.start()
        try:
            await self._refuse_fewer()
            await self._refuse_taken_ports([worker for worker in self._workers if worker not in adopted])
            for worker in adopted:
                logger.info("broker %d goes on as process %d", worker.number, worker.pid)
            for worker in self._workers:
                if worker not in adopted:
                    worker.start()
            if not await self._wait_until_ready():
                return 1
            if not self._told.is_set():
                announce()
            await asyncio.gather(*(self._keep(worker) for worker in self._workers))
        finally:
            await self._stop()
        return 0

    async def _refuse_fewer(self) -> None:
        """Refuse to leave brokers out that hold partitions."""
        left_out = sorted(number for number in _numbers(f"{self._plan.data_dir}/{OTHERS}") if number > self._plan.count)
        if not left_out or self._server is None:
            return
        holders = await holders_of_replicas(self._plan.socket)
        needed = [number for number in left_out if number in holders]
        if needed:
            raise SupervisorError(
                f"broker {needed[-1]} in {self._plan.directory(needed[-1])} holds partitions: start {needed[-1]} brokers, or "
                f"drain it first (ottla cluster drain {needed[-1]})"
            )

    async def _refuse_taken_ports(self, starting: list[Worker]) -> None:
        """Refuse ports on which something answers already: it would be taken for the broker that is started."""
        for worker in starting:
            try:
                async with asyncio.timeout(2):
                    _, writer = await asyncio.open_connection(self._plan.host, worker.port)
            except (OSError, TimeoutError):
                continue
            writer.close()
            raise SupervisorError(f"port {worker.port}, which broker {worker.number} needs, is already in use")

    async def _wait_until_ready(self) -> bool:
        """Return whether all serve clients; False if one has ended before."""
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        waiting = list(self._workers)
        while (waiting or (self._server is not None and self._server.has_absent)) and not self._told.is_set():
            for worker in list(waiting):
                if await worker.is_ready():
                    waiting.remove(worker)
                elif not worker.is_running():
                    complain(f"broker {worker.number} has ended before it was ready (code {worker.exit_code})", 1)
                    return False
            if asyncio.get_running_loop().time() > deadline:
                numbers = ", ".join(str(worker.number) for worker in waiting) or "the coordination tree of all"
                complain(f"not ready within {READY_SECONDS:g} s: {numbers}", 1)
                return False
            await asyncio.sleep(LOOK_SECONDS)
        return True

    async def _keep(self, worker: Worker) -> None:
        """Start a broker anew whenever it has ended."""
        loop = asyncio.get_running_loop()
        pause, began = PAUSE_SECONDS_MIN, loop.time()
        while not self._told.is_set():
            if worker.is_running():
                await self._sleep(LOOK_SECONDS)
                continue
            if loop.time() - began > STEADY_SECONDS:
                pause = PAUSE_SECONDS_MIN
            code = "" if worker.exit_code is None else f" with code {worker.exit_code}"
            logger.warning("broker %d has ended%s: it is started again in %g s", worker.number, code, pause)
            await self._sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)
            if not self._told.is_set():
                worker.start()
                began = loop.time()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()

    async def _stop(self) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + STOP_SECONDS
        while any(worker.is_running() for worker in self._workers):
            if asyncio.get_running_loop().time() > deadline:
                for worker in self._workers:
                    worker.signal(signal.SIGKILL)
            await asyncio.sleep(LOOK_SECONDS / 4)
        if self._server is not None:
            await self._server.stop()


async def holders_of_replicas(socket_path: str) -> set[int]:
    """Return the brokers that hold partitions, from the tree that is served there."""
    from ottla.cluster.loading import load_topics
    from ottla.cluster.trees.served import ServedTree

    tree = ServedTree(socket_path, session_timeout_ms=10_000, connection_timeout_ms=10_000)
    await tree.open()
    try:
        topics = await load_topics(tree, await tree.children(BROKER_TOPICS))
    except NoNodeError:  # a new one
        return set()
    finally:
        await tree.close()
    return {
        node_id
        for topic in topics.values()
        if topic is not None
        for partition in topic.partitions
        for node_id in partition.replicas
    }


def supervise(plan: Plan, announcement: Callable[[], str]) -> int:
    """Run a plan until SIGTERM or SIGINT; return the exit code."""
    from ottla.cli.serve import on_signals
    from ottla.cluster.trees.serving import TreeServer
    from ottla.offload import ThreadOffload

    os.makedirs(plan.data_dir, exist_ok=True)
    with open(f"{plan.data_dir}/{LOCK_FILE}", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return complain(f"{plan.data_dir} is in use by another supervisor ({LOCK_FILE} is locked)", 1)
        os.set_inheritable(lock.fileno(), False)
        offload = ThreadOffload(1)

        async def main() -> int:
            server = TreeServer(f"{plan.data_dir}/{TREE_FILE}", plan.socket, offload) if plan.has_tree else None
            supervisor = Supervisor(plan, server)
            told = asyncio.Event()
            on_signals(asyncio.get_running_loop(), told)
            telling = asyncio.get_running_loop().create_task(told.wait())
            telling.add_done_callback(lambda done: None if done.cancelled() else supervisor.stop())
            try:
                return await supervisor.run(lambda: say(announcement()))
            finally:
                telling.cancel()

        try:
            return asyncio.run(main())
        except (SupervisorError, TreeUnavailableError) as error:
            return complain(str(error), 1)
        finally:
            offload.close()


# -- processes


def write_pid(directory: str, port: int) -> None:
    """Say that this process is the broker of a directory whose lock it holds, and which port it was started with."""
    with open(f"{directory}/{PID_FILE}", "w") as file:
        file.write(f"{os.getpid()} {_begun(os.getpid())} {port}\n")


def read_pid(directory: str) -> int | None:
    """Return the process that is the broker of a directory; None if it has gone."""
    try:
        with open(f"{directory}/{PID_FILE}") as file:
            pid, begun = file.read().split()[:2]
    except (OSError, ValueError):
        return None
    return int(pid) if _exists(int(pid)) and _begun(int(pid)) == begun else None


def read_port(directory: str) -> int | None:
    """Return the port that the broker of a directory was started with; None if that is not known."""
    try:
        with open(f"{directory}/{PID_FILE}") as file:
            return int(file.read().split()[2])
    except (OSError, IndexError, ValueError):
        return None


def _begun(pid: int) -> str:
    """Return when a process began, by its system's clock: a number that is used again belongs to another process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "-"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(path: str) -> bool:
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _numbers(directory: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(directory) if name.isdecimal()]
    except OSError:
        return []


def python() -> list[str]:
    """Return what runs this program in another process."""
    return [sys.executable, "-m", "ottla"]
