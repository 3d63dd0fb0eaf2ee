"""What the operating system says about this process: memory, age, processor time, open files.

Linux tells by /proc; elsewhere the answers are coarser (`resident_bytes` is the peak) or None.
"""

from __future__ import annotations

import os
import sys


def resident_bytes() -> int | None:
    """Resident memory now."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def age_seconds() -> float | None:
    """Seconds since this process was started, in steps of 10 ms; None where it cannot be told."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
            started_ticks = int(stat.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as uptime:
            return float(uptime.read().split()[0]) - started_ticks / 100  # USER_HZ is 100 on every Linux we know
    except (OSError, ValueError, IndexError):
        return None


def cpu_seconds() -> float | None:
    """Processor time used so far, user and system, all threads."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def raise_descriptor_limit() -> int | None:
    """Allow as many open files as this process may allow itself, as a JVM does; how many, None for no limit known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):  # macOS: "unlimited" is more than the kernel gives
            pass
    return None if soft == resource.RLIM_INFINITY else soft


def forbid_core_dumps() -> bool:
    """Have the kernel write no core file of this process and those it starts: keys and passwords would be in it.

    Return whether it will not; where a program takes the dumps (`core_pattern` begins with `|`), the kernel does not ask.
    """
    try:
        import resource
    except ImportError:  # Windows
        return False
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        return False
    return True


def open_descriptors() -> int | None:
    """Open files, sockets and the like; None where it cannot be told."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
