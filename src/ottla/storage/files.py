"""Where the storage talks to the operating system: open, append, pread, fsync, rename.

`Files` and `File` are the border: the simulation and the tests put files in memory behind them, with crashes and
faults. Paths are plain strings joined with "/". Everything that fails raises `OSError` with an errno; what that means
for a log or a directory is decided by the callers.

A `File` closes itself when nothing refers to it any more. So a reader that still holds a slice of a segment keeps its
descriptor alive while the segment is evicted from a cache or deleted, and a descriptor number is never reused under it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Protocol

from ottla.storage.file_system import OsFileSystem, open_file_system, reserve

Buffer = bytes | bytearray | memoryview

try:
    import fcntl
except ImportError:  # Windows: no advisory locks; a second broker is then refused by its port alone
    fcntl = None  # type: ignore[assignment]

_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_O_BINARY = getattr(os, "O_BINARY", 0)
_O_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
#: Pages of a file come and go in runs: a look at every so many bytes is enough, and a look costs a microsecond.
_CACHE_STRIDE = 256 * 1024
#: Less than this beyond the end is what any file system rounds up to.
_RESERVE_MIN = 256 * 1024
#: errno values that mean "no space here": the write is undone and may be tried again later.
NO_SPACE = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})
#: "This process, or this machine, has no descriptor left": says nothing about a disk.
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
#: Passes by itself or with an operator's help; no reason to give a disk up.
PASSING = NO_SPACE | NO_DESCRIPTOR


class File(Protocol):
    """One open file. Appends go to its end; reads name their position."""

    def append(self, data: Buffer) -> None:
        """Write all of `data` at the end. After an `OSError` a part of it may be there: truncate it away."""
        ...

    def pread(self, size: int, position: int) -> bytes:
        """Return up to `size` bytes from `position`; fewer only at the end of the file."""
        ...

    def pread_nowait(self, size: int, position: int) -> Buffer | None:
        """Like `pread`, but None when it would wait for the disk or the system does not say."""
        ...

    def is_cached(self, size: int, position: int) -> bool:
        """Whether the bytes are in memory, as far as a look at some of them shows; False where the system does not say."""
        ...

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        """Hand bytes to a socket that does not block; return how many it took, 0 at the end of the file."""
        ...

    def reserve(self, size: int, position: int) -> bool:
        """Set disk space aside from `position` on, where that makes appending cheaper; return whether that was done.

        The length of the file stays.
        """
        ...

    def release_reserve(self) -> None:
        """Give back what is set aside beyond the end, also by a process that died."""
        ...

    def size(self) -> int:
        """Return the length in bytes."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def datasync(self) -> None:
        """Make the content durable. After an error nothing is known about it: never retry (Rebello, ATC '20)."""
        ...

    def sync(self) -> None:
        """Make the content and the attributes durable."""
        ...

    def close(self) -> None:
        """Give the descriptor back; harmless when done twice."""
        ...


class FileSystem(Protocol):
    """A file system that can be made durable as a whole."""

    def has_little_to_write(self) -> bool:
        """Whether it can be synced, and would be sooner than a few single files. Does not wait for the disk."""
        ...

    def sync(self) -> None:
        """Make everything that was written to it before this call durable, names included.

        After an error nothing is known about any file: never retry.
        """
        ...

    def close(self) -> None:
        """Give what it holds back; harmless when done twice."""
        ...


class FileLock(Protocol):
    """A held lock file."""

    def close(self) -> None:
        """Let go of it."""
        ...


class Files(Protocol):
    """One file system."""

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> File:
        """Open a file, for appending and reading or (`write=False`) for reading only."""
        ...

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        ...

    def entries(self, path: str) -> dict[str, bool]:
        """Return the names in a directory, sorted, with whether each is a directory; no slower than `listdir`."""
        ...

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def mkdir(self, path: str) -> None:
        """Make a directory and what is missing above it; it may be there already."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename a file or directory; an existing target file is replaced atomically."""
        ...

    def remove(self, path: str) -> None: ...

    def remove_tree(self, path: str) -> None:
        """Remove a directory with everything in it; it may be gone already."""
        ...

    def sync_dir(self, path: str) -> None:
        """Make the names in a directory durable."""
        ...

    def sync_file(self, path: str) -> None:
        """Make the content of a closed file durable."""
        ...

    def read_bytes(self, path: str) -> bytes: ...

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        """Replace a small file: temporary file, fsync, rename, fsync of the directory.

        With `sync=False` the caller makes it durable later, with `sync_file` and `sync_dir`.
        """
        ...

    def mtime_ms(self, path: str) -> int: ...

    def set_mtime_ms(self, path: str, mtime_ms: int) -> None: ...

    def lock(self, path: str) -> FileLock:
        """Take an exclusive lock on a file, made if missing.

        Raises:
            BlockingIOError: another process (Apache Kafka too) or another broker of this process holds it.
        """
        ...

    def disk_usage(self, path: str) -> tuple[int, int]:
        """Return the total and the usable bytes of the disk below `path`."""
        ...

    def file_system(self, directory: str) -> FileSystem | None:
        """Return the file system of a directory if it can be synced as a whole; open it before what it is to sync."""
        ...


class OsFile:
    """A descriptor opened with O_APPEND: after a truncation the next append lands at the new end by itself."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def append(self, data: Buffer) -> None:
        written = os.write(self._fd, data)
        if written != len(data):
            rest = memoryview(data)
            while True:
                rest = rest[written:]
                if not rest:
                    return
                written = os.write(self._fd, rest)

    def pread(self, size: int, position: int) -> bytes:
        data = os.pread(self._fd, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]  # signals and huge sizes cut reads short; only an empty read is the end
        got = len(data)
        while got < size:
            data = os.pread(self._fd, size - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pread_nowait(self, size: int, position: int) -> Buffer | None:
        if not _RWF_NOWAIT:
            return None
        buffer = bytearray(size)
        try:
            got = os.preadv(self._fd, [buffer], position, _RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP and _is_in_memory(os.fstat(self._fd).st_dev):
                return self.pread(size, position)
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                return None
            raise
        return buffer if got == size else None

    def is_cached(self, size: int, position: int) -> bool:
        if not _RWF_NOWAIT or not hasattr(os, "sendfile"):
            return False
        last = position + size - 1
        byte = bytearray(1)
        try:
            for place in range(position, last, _CACHE_STRIDE):
                if os.preadv(self._fd, (byte,), place, _RWF_NOWAIT) != 1:
                    return False
            return os.preadv(self._fd, (byte,), last, _RWF_NOWAIT) == 1
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return _is_in_memory(os.fstat(self._fd).st_dev)
            if error.errno in (errno.EAGAIN, errno.ENOSYS, errno.EINVAL):
                return False
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def send_to(self, socket_fd: int, size: int, position: int) -> int:
        return os.sendfile(socket_fd, self._fd, position, size)

    def reserve(self, size: int, position: int) -> bool:
        return reserve(self._fd, size, position)

    def release_reserve(self) -> None:
        status = os.fstat(self._fd)
        if getattr(status, "st_blocks", 0) * 512 > status.st_size + _RESERVE_MIN:
            os.ftruncate(self._fd, status.st_size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def datasync(self) -> None:
        _datasync(self._fd)

    def sync(self) -> None:
        _sync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


_in_memory: dict[int, bool] = {}


def _is_in_memory(device: int) -> bool:
    """Whether a file system is nothing but memory (tmpfs), where a read waits for no disk. Looked up once for each."""
    known = _in_memory.get(device)
    if known is None:
        number = f"{os.major(device)}:{os.minor(device)}"
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
                rows = [line.partition(" - ") for line in mounts]
        except OSError:
            rows = []
        known = any(
            place.split()[2] == number and source.split()[0] in ("tmpfs", "ramfs")
            for place, _, source in rows
            if source
        )
        _in_memory[device] = known
    return known


def _sync(fd: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:  # macOS: fsync alone leaves the data in the drive's cache
        fcntl.fcntl(fd, full)
    else:
        os.fsync(fd)


def _datasync(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        _sync(fd)


class _OsLock:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class OsFiles:
    """The machine's file system."""

    def open(self, path: str, *, create: bool = False, truncate: bool = False, write: bool = True) -> OsFile:
        flags = _O_CLOEXEC | _O_BINARY
        flags |= os.O_RDWR | os.O_APPEND if write else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        if truncate:
            flags |= os.O_TRUNC
        return OsFile(os.open(path, flags, 0o644))

    def listdir(self, path: str) -> list[str]:
        names = os.listdir(path)
        names.sort()
        return names

    def entries(self, path: str) -> dict[str, bool]:
        with os.scandir(path) as found:
            return dict(sorted((entry.name, entry.is_dir()) for entry in found))

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def mkdir(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        try:
            entries = list(os.scandir(path))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self.remove_tree(entry.path)
            else:
                os.unlink(entry.path)
        os.rmdir(path)

    def sync_dir(self, path: str) -> None:
        if os.name == "nt":
            return  # directories cannot be opened there; NTFS journals its names
        fd = os.open(path, os.O_RDONLY | _O_CLOEXEC)
        try:
            _sync(fd)
        finally:
            os.close(fd)

    def sync_file(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | _O_CLOEXEC | _O_BINARY)
        try:
            _sync(fd)
        finally:
            os.close(fd)

    def read_bytes(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY | _O_CLOEXEC | _O_BINARY)
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)  # the system names no path here
            # Checkpoints and snapshots are small: one read more often than not takes all.
            data = os.read(fd, 65536)
            if len(data) < 65536:
                return data
            parts = [data]
            while data := os.read(fd, 1 << 20):
                parts.append(data)
            return b"".join(parts)
        finally:
            os.close(fd)

    def write_atomic(self, path: str, data: Buffer, *, sync: bool = True) -> None:
        temporary = path + ".tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _O_CLOEXEC | _O_BINARY, 0o644)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            if sync:
                _sync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        if sync:
            self.sync_dir(os.path.dirname(path) or ".")

    def mtime_ms(self, path: str) -> int:
        return os.stat(path).st_mtime_ns // 1_000_000

    def set_mtime_ms(self, path: str, mtime_ms: int) -> None:
        os.utime(path, ns=(mtime_ms * 1_000_000, mtime_ms * 1_000_000))

    def lock(self, path: str) -> FileLock:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _O_CLOEXEC, 0o644)
        if fcntl is not None:
            try:
                # Both kinds: record locks are what Java's FileChannel takes, flock also tells apart two brokers
                # inside one process.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(fd)
                raise BlockingIOError(errno.EAGAIN, "locked by another process", path) from error
        return _OsLock(fd)

    def disk_usage(self, path: str) -> tuple[int, int]:
        if not hasattr(os, "statvfs"):
            import shutil

            usage = shutil.disk_usage(path)
            return usage.total, usage.free
        stat = os.statvfs(path)
        return stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize

    def file_system(self, directory: str) -> OsFileSystem | None:
        return open_file_system(directory)
