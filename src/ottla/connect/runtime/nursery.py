"""The process whose forks are the processes of a worker: it has imported ottla once, for all of them.

A fork takes milliseconds; a new interpreter that imports ottla takes a second, and a worker may have to start thirty. This
process has one thread, and imports no plugin: each fork sees what is installed by then. It reads from the socket whose
descriptor is its argument, a line of JSON each:

    {"start": module, "id": n}   with three descriptors: the fork's standard input, where its events go, and a socket for its
                                 exit code. The fork runs `module.main([descriptor of events])`.
    {"kill": n}

It ends, and the system ends its forks, when the worker does, or closes the socket.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import site
import socket
import sys
from dataclasses import dataclass
from typing import Any, Final

import ottla.connect.runtime.host
import ottla.connect.runtime.inspector  # noqa: F401
from ottla.connect.runtime.process import die_first, die_with_parent

#: Of each fork.
_DESCRIPTORS: Final = 3
#: The exit code of a process that could not be forked (EX_OSERR).
_NO_FORK: Final = 71


@dataclass(frozen=True, slots=True)
class Job:
    """What a fork is for: in the fork, `serve` returns it."""

    module: str
    events: int


class Server:
    """Forks, and says with which codes the forks have ended.

    Args:
        requests: the worker's end of it closes when no more is to come.
    """

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._buffer = b""
        self._descriptors: list[int] = []
        #: Of each fork that runs, by its process id: the worker's number for it, and where its exit code goes.
        self._forks: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> Job | None:
        """Do what is asked until the worker is gone; return what to do, in a fork."""
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        woken.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if woken in ready:
                    woken.recv(4096)
                self._reap()
                if self._requests not in ready:
                    continue
                lines = self._read()
                if lines is None:
                    return None
                for line in lines:
                    if "kill" in line:
                        self._kill(line["kill"])
                        continue
                    job = self._fork(line["id"], line["start"])
                    if job is not None:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for mine in (woken, waker, self._requests):
                            mine.close()
                        return job

    def _read(self) -> list[dict[str, Any]] | None:
        data, descriptors, _, _ = socket.recv_fds(self._requests, 65536, 8 * _DESCRIPTORS)
        self._descriptors += descriptors
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _fork(self, number: int, module: str) -> Job | None:
        commands, events, outcome = self._descriptors[:_DESCRIPTORS]
        del self._descriptors[:_DESCRIPTORS]
        reports = socket.socket(fileno=outcome)
        server = os.getpid()
        try:
            child = os.fork()
        except OSError as error:
            print(f"connect: no process can be started: {error}", file=sys.stderr, flush=True)
            child = -1
        if child:
            os.close(commands)
            os.close(events)
            if child > 0:
                self._forks[child] = number, reports
            else:
                _report(reports, _NO_FORK)
            return None
        die_with_parent(server)
        die_first()
        for _, other in self._forks.values():
            other.close()
        reports.close()
        for descriptor in self._descriptors:  # of those that are forked next
            os.close(descriptor)
        os.dup2(commands, 0)
        os.close(commands)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        for folder in site.getsitepackages():
            site.addsitedir(folder)  # pip may have put packages there that stand elsewhere
        importlib.invalidate_caches()
        return Job(module, events)

    def _reap(self) -> None:
        while self._forks:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                return
            _report(self._forks.pop(ended)[1], os.waitstatus_to_exitcode(status))

    def _kill(self, number: int) -> None:
        for process, (of, _) in self._forks.items():
            if of == number:
                os.kill(process, signal.SIGKILL)  # it was not waited for: the id is its own


def _report(reports: socket.socket, code: int) -> None:
    try:
        reports.send(str(code).encode())
    except OSError:
        pass  # the worker does not want to know
    reports.close()


def main() -> int:
    die_with_parent()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # they may go to the whole group: the worker ends its processes itself
        signal.signal(number, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # forks share what is there, and no collection touches it
    requests = socket.socket(fileno=int(sys.argv[1]))
    job = Server(requests).serve()
    if job is None:
        return 0
    code: int = importlib.import_module(job.module).main([str(job.events)])
    return code


if __name__ == "__main__":
    sys.exit(main())
