"""Named places where a test may make the process die: `failpoints.hit("log.roll")`.

Off unless the environment variable OTTLA_FAILPOINTS is set before the process starts, for example
`OTTLA_FAILPOINTS="log.roll=0.1:kill,log.append.partial=0.001:kill;seed=7;count=hits.txt"`: each name with the chance
that a visit ends the process by SIGKILL, a seed, and a file that gets one line for each kill, so that
the test can count where the process died. This is a rim module: it may use randomness, files and signals.
"""

from __future__ import annotations

import os
import random
import signal


class _Failpoints:
    def __init__(self, text: str) -> None:
        self.chances: dict[str, float] = {}
        self.count_path = ""
        seed = 0
        for part in text.split(";"):
            if part.startswith("seed="):
                seed = int(part[5:])
            elif part.startswith("count="):
                self.count_path = part[6:]
            else:
                for point in filter(None, part.split(",")):
                    name, _, rule = point.partition("=")
                    self.chances[name] = float(rule.partition(":")[0])
        self.random = random.Random(seed ^ os.getpid())

    def hit(self, name: str) -> None:
        chance = self.chances.get(name, 0.0)
        if chance and self.random.random() < chance:
            if self.count_path:
                with open(self.count_path, "a") as file:
                    file.write(name + "\n")
            os.kill(os.getpid(), signal.SIGKILL)


_active = _Failpoints(os.environ["OTTLA_FAILPOINTS"]) if os.environ.get("OTTLA_FAILPOINTS") else None

#: Whether any failpoint is set: hot paths test this before they call `hit`.
ENABLED = _active is not None


def hit(name: str) -> None:
    """Die here, perhaps. Does nothing unless OTTLA_FAILPOINTS names this place."""
    if _active is not None:
        _active.hit(name)
