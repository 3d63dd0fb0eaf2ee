"""What starting the command line and importing the package cost, beside Python's own asyncio: whole processes.

    python benchmarks/command_start.py [--runs 15]

Goals: `ottla --help` at most 3x of `python -c 'import asyncio'`; `import ottla` at most 1.3x. All in turn, run by run, so
that whatever else the machine does meets all; the fastest and the median of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

COMMANDS: dict[str, Sequence[str]] = {
    "python -c 'import asyncio'": ["-c", "import asyncio"],
    "import ottla": ["-c", "import ottla"],
    "ottla --help": ["-m", "ottla", "--help"],
    "ottla topic --help": ["-m", "ottla", "topic", "--help"],
    "ottla consume --help": ["-m", "ottla", "consume", "--help"],
    "ottla serve --help": ["-m", "ottla", "serve", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.runs + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append((time.perf_counter() - began) * 1000)
    measured = {name: sorted(found[1:]) for name, found in times.items()}  # the first filled the page cache
    base = measured["python -c 'import asyncio'"]
    print(f"{'':<28}{'fastest':>10}{'median':>10}{'of asyncio: fastest':>22}{'median':>9}")
    for name, found in measured.items():
        middle = found[len(found) // 2]
        ratios = found[0] / base[0], middle / base[len(base) // 2]
        print(f"{name:<28}{found[0]:>7.0f} ms{middle:>7.0f} ms{ratios[0]:>21.2f}x{ratios[1]:>8.2f}x")


if __name__ == "__main__":
    main()
