"""Machines as network namespaces of this host, on one switch, with links that can be cut, lossy or slow.

Every rule is in the receiver's namespace (nftables), so a way can be cut in one direction. Needs root, `ip`, `nft`, `tc` and
`nsenter`. Processes are started with `command()`: `nsenter` changes the network only, so that the mounts stay those of this
host and a process that is started again finds its page cache.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping

SWITCH = "sw"
CLONE_NEWNET = 0x40000000


def missing() -> str | None:
    """Return why namespaces cannot be used here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in ("ip", "nft", "tc", "nsenter") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Network:
    """Machines by name, each with an address.

    Args:
        prefix: of the namespaces' names; short, and nobody else's.
    """

    def __init__(self, prefix: str, addresses: Mapping[str, str]) -> None:
        self.prefix = prefix
        self.addresses = dict(addresses)
        self._made: list[str] = []

    def open(self) -> None:
        self._add_namespace(SWITCH)
        _run("ip", "-n", self._namespace(SWITCH), "link", "add", "name", "sw0", "type", "bridge")
        _run("ip", "-n", self._namespace(SWITCH), "link", "set", "sw0", "up")
        for name, address in self.addresses.items():
            self._add_namespace(name)
            inside, switch = self._namespace(name), self._namespace(SWITCH)
            _run(
                "ip", "-n", inside, "link", "add", "name", "eth0", "type", "veth", "peer", "name", name, "netns", switch
            )
            _run("ip", "-n", switch, "link", "set", name, "master", "sw0", "up")
            _run("ip", "-n", inside, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", inside, "link", "set", device, "up")
            self._nft(name, "add table inet faults")
            self._nft(name, "add chain inet faults in { type filter hook input priority 0; }")

    def close(self) -> None:
        for namespace in self._made:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        self._made.clear()

    def command(self, name: str) -> tuple[str, ...]:
        """Return what to put before a command that shall run on a machine."""
        return ("nsenter", f"--net=/run/netns/{self._namespace(name)}")

    def enter(self, name: str) -> None:
        """Move the calling thread, and what it starts from now on, to a machine."""
        with open(f"/run/netns/{self._namespace(name)}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {name}")

    def cut(self, sender: str, receiver: str) -> None:
        """Drop what one machine sends to another; the way back is another one."""
        self._nft(receiver, f"add rule inet faults in ip saddr {self.addresses[sender]} drop")

    def lose(self, receiver: str, percent: int) -> None:
        """Drop a part of all packets that reach a machine."""
        self._nft(receiver, f"add rule inet faults in numgen random mod 100 < {percent} drop")

    def slow_down(self, name: str, rate: str) -> None:
        """Bound what a machine sends, such as "1mbit"."""
        limit = ("root", "tbf", "rate", rate, "burst", "16kb", "latency", "400ms")
        _run(*self.command(name), "tc", "qdisc", "replace", "dev", "eth0", *limit)

    def heal(self) -> None:
        """Let everything through again."""
        for name in self.addresses:
            self._nft(name, "flush chain inet faults in")
            limits = [*self.command(name), "tc", "qdisc", "del", "dev", "eth0", "root"]
            subprocess.run(limits, check=False, capture_output=True)

    def _namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _add_namespace(self, name: str) -> None:
        _run("ip", "netns", "add", self._namespace(name))
        self._made.append(self._namespace(name))

    def _nft(self, name: str, rule: str) -> None:
        _run(*self.command(name), "nft", *rule.split())


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
