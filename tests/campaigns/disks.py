"""Disks of brokers: file systems on loop devices that get full, fail, or lose what was not synced."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from tests.crash.test_power_cut import EXT4_IOC_SHUTDOWN, LoopDisk

MEGABYTES = 400
#: Everything is written down before the disk fails: what is lost then is only what comes later.
FLUSH_FIRST = 0


class BreakableDisk(LoopDisk):
    """An ext4 file system in a file."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._placeholders: list[Path] = []
        self._directory = directory
        super().__init__(directory, MEGABYTES)

    def fail(self) -> None:
        """From now on every write fails with EIO."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", FLUSH_FIRST))
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        """Mount it again, under a mount id that it did not have.

        Brokers tell by the id of the mount whether their page cache is still there. A host that comes back has another
        boot id as well; this one has the same, and the kernel gives freed ids of mounts to the next that asks.
        """
        before = self._mount_id()
        subprocess.run(["umount", str(self.path)], check=True, capture_output=True)
        self.mount()
        while self._mount_id() == before:
            subprocess.run(["umount", str(self.path)], check=True, capture_output=True)
            placeholder = self._directory / f"placeholder{len(self._placeholders)}"
            placeholder.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", str(placeholder)], check=True, capture_output=True)
            self._placeholders.append(placeholder)
            self.mount()

    def fill(self) -> None:
        """Take all the room there is."""
        with open(self.path / "filler", "wb", buffering=0) as filler:
            room = os.statvfs(self.path)
            with contextlib.suppress(OSError):
                os.posix_fallocate(filler.fileno(), 0, max(1, room.f_bavail * room.f_frsize - (4 << 20)))
            filler.seek(0, os.SEEK_END)
            for size in (1 << 20, 512):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        super().close()
        for placeholder in self._placeholders:
            subprocess.run(["umount", str(placeholder)], check=False, capture_output=True)

    def _mount_id(self) -> str:
        path = os.path.realpath(self.path)
        with open("/proc/self/mountinfo") as file:
            rows = [line.split() for line in file]
        return next(f"{row[0]}@{row[2]}" for row in reversed(rows) if row[4] == path)
