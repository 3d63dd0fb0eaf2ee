"""What setting disk space aside ahead of a file's end saves when appending (`ottla.storage.file_system.reserve`).

    python benchmarks/reserve.py [--chunks 256,64,16] [--rounds 4] [--megabytes 800]

Appends to four files in turn, in chunks of so many KiB, with and without space set aside 16 MiB at a time; the order changes
from round to round. CPU seconds of this process per GB, the cheapest round of each. Files are made in the system's temporary
directory or under OTTLA_BENCH_DIR; where nothing can be set aside (anything but ext4) it says so.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

from ottla.storage.files import OsFiles

FILES = 4
STEP = 16 << 20


def append(directory: str, chunk: int, total: int, *, ahead: bool) -> float:
    """Return the CPU seconds that appending `total` bytes took."""
    files = [OsFiles().open(f"{directory}/{number}", create=True, truncate=True) for number in range(FILES)]
    data = os.urandom(chunk)
    began = time.process_time()
    for position in range(0, total // FILES, chunk):
        for file in files:
            if ahead and position % STEP == 0 and not file.reserve(STEP, position):
                raise SystemExit(f"no space can be set aside on the file system of {directory}")
            file.append(data)
    took = time.process_time() - began
    for file in files:
        file.truncate(0)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", default="256,64,16", help="KiB, divisors of 16 MiB")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=800)
    options = parser.parse_args()
    total = options.megabytes << 20
    with tempfile.TemporaryDirectory(prefix="ottla-reserve-", dir=os.environ.get("OTTLA_BENCH_DIR")) as directory:
        for chunk in (int(each) << 10 for each in options.chunks.split(",")):
            took: dict[bool, list[float]] = {False: [], True: []}
            for number in range(options.rounds):
                for ahead in (False, True) if number % 2 else (True, False):
                    took[ahead].append(append(directory, chunk, total, ahead=ahead) / total * 1e9)
            plain, reserved = min(took[False]), min(took[True])
            print(
                f"{chunk >> 10:4} KiB: {plain:.3f} s/GB, with space set aside {reserved:.3f}, {reserved / plain:.2f}x"
            )


if __name__ == "__main__":
    main()
