"""The processes in which tasks run, as a worker sees them: started, told what to do, killed when they do not end in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ottla.connect.runtime.children import Child, Nursery
from ottla.connect.runtime.process import LEASE_OVER
from ottla.connect.runtime.runs import Action, EndTasks, HostView, Pause, StartHost

log = logging.getLogger(__name__)
_MODULE: Final = "ottla.connect.runtime.host"
Event = dict[str, Any]


class Hosts:
    """All hosts of a worker. `act`, `tick` and `close` are for one thread; events come in threads of their own.

    Args:
        order: makes what a new host is told first, but for its tasks.
        on_event: called with the host's number, its view and an event; "died" when a process ends unasked.
        grace_s: how long a task has to end.
        on_change: called when a task, or a process, has ended.
    """

    def __init__(
        self,
        nursery: Nursery,
        order: Callable[[str], dict[str, Any]],
        on_event: Callable[[int, HostView, Event], None],
        grace_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._nursery = nursery
        self._order = order
        self._on_event = on_event
        self._grace_s = grace_s
        self._on_change = on_change
        self._lock = threading.Lock()
        self._children: dict[int, Child] = {}
        self._readers: list[threading.Thread] = []
        self._deadlines: dict[int, float] = {}
        self._killed: set[int] = set()
        self._last = 0
        self._lease_s: float | None = None
        self.views: dict[int, HostView] = {}

    def act(self, action: Action) -> None:
        """Do what was decided."""
        match action:
            case StartHost():
                self._start(action)
            case EndTasks():
                with self._lock:
                    view = self.views.get(action.host)
                    if view is None:
                        return
                    view.ending.update(action.tasks)
                    self._deadlines.setdefault(action.host, time.monotonic() + self._grace_s)
                    child = self._children[action.host]
                child.say({"end": list(action.tasks)})
            case Pause():
                with self._lock:
                    view = self.views.get(action.host)
                    if view is None:
                        return
                    view.is_paused = action.is_paused
                    child = self._children[action.host]
                child.say({"paused": action.is_paused})

    def _start(self, action: StartHost) -> None:
        order = self._order(action.connector)
        order["tasks"] = [[number, what.run, dict(what.config)] for number, what in action.tasks.items()]
        order["paused"] = action.is_paused
        order["lease"] = self._lease_s
        child = self._nursery.start(_MODULE)
        view = HostView(
            connector=action.connector,
            runs={number: what.run for number, what in action.tasks.items()},
            is_paused=action.is_paused,
        )
        with self._lock:
            self._last += 1
            number = self._last
            self.views[number], self._children[number] = view, child
        child.say(order)
        reader = threading.Thread(target=self._read, args=(number, view, child), daemon=True)
        self._readers = [*(other for other in self._readers if other.is_alive()), reader]
        reader.start()

    def _read(self, number: int, view: HostView, child: Child) -> None:
        is_explained = False
        for event in child.lines():
            is_explained |= event["event"] in ("refused", "closed")
            self._tell(number, view, event)
            if event["event"] in ("ended", "failed"):
                # Only now: until it is known that a run has failed, its task must not look free.
                with self._lock:
                    view.runs.pop(event["task"], None)
                    view.ending.discard(event["task"])
                    if not view.ending:
                        self._deadlines.pop(number, None)
                self._on_change()
        code = child.wait()
        with self._lock:
            is_killed = number in self._killed
            left = dict(view.runs)
        kind = "killed" if is_killed else "gone" if is_explained or code == LEASE_OVER else "died"
        self._tell(number, view, {"event": kind, "code": code, "runs": left})
        with self._lock:
            view.runs.clear()
            del self.views[number], self._children[number]
            self._deadlines.pop(number, None)
        child.close()
        self._on_change()

    def _tell(self, number: int, view: HostView, event: Event) -> None:
        try:
            self._on_event(number, view, event)
        except Exception:  # or this process would look alive for ever, and its tasks would start nowhere
            log.exception("connector %s: what its process says (%s) was not taken", view.connector, event["event"])

    def snapshot(self) -> dict[int, HostView]:
        """Return what processes there are, as of now."""
        with self._lock:
            return {
                number: HostView(
                    connector=view.connector, runs=dict(view.runs), is_paused=view.is_paused, ending=set(view.ending)
                )
                for number, view in self.views.items()
            }

    def tick(self) -> None:
        """Kill processes whose tasks do not end in time."""
        now = time.monotonic()
        with self._lock:
            late = [number for number, deadline in self._deadlines.items() if deadline <= now]
            for number in late:
                del self._deadlines[number]
                self._killed.add(number)
        for number in late:
            self._kill(number)

    def _kill(self, number: int) -> None:
        child, view = self._children.get(number), self.views.get(number)
        if child is not None and view is not None:
            log.warning("connector %s does not end within %g s: its process is killed", view.connector, self._grace_s)
            child.kill()

    def holds(self, connector: str) -> bool:
        """Whether a process may still run a task of a connector."""
        with self._lock:
            return any(view.connector == connector and view.runs for view in self.views.values())

    def tell(self, number: int, command: Mapping[str, Any]) -> None:
        """Tell one process something, if it is still there."""
        with self._lock:
            child = self._children.get(number)
        if child is not None:
            child.say(command)

    def tell_all(self, command: Mapping[str, Any]) -> None:
        """Tell all processes something."""
        with self._lock:
            children = list(self._children.values())
        for child in children:
            child.say(command)

    def lease(self, until_s: float) -> None:
        """Have all processes end by themselves at a time of `time.monotonic()`, unless they are told a later one.

        Waits for none of them: the others' leases would end because one hangs.
        """
        if self._lease_s is None or self._lease_s != until_s:
            self._lease_s = until_s
            with self._lock:
                children = list(self._children.values())
            for child in children:
                child.say_nowait({"lease": until_s})

    def close(self) -> None:
        """Have all tasks end, and wait until they have."""
        self.tell_all({"stop": True})
        deadline = time.monotonic() + self._grace_s
        with self._lock:
            children = dict(self._children)
        for number, child in children.items():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except TimeoutError:
                with self._lock:
                    self._killed.add(number)
                self._kill(number)
                child.wait()
        for reader in self._readers:
            reader.join()
