"""Plant bugs on purpose, one at a time, and see whether the simulations and tests find them.

    python -m tests.planted                  # all of them
    python -m tests.planted forgets-a-marker skips-a-fence

Each `*.patch` beside this file is one bug: a sentence that says what is wrong, lines `Found by: ARGUMENTS` (of Python, tried
in turn: `-m tests.soak.seeds ...`, `-m pytest ...`), and a patch of `src`. It is applied to a copy of the sources, never to
the checkout. Without arguments the finders look at the unbroken sources first, and must find nothing. Ends with 1 if a bug
was not found; a patch that does not fit any more is an error.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parents[1]
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Bug:
    """One patch."""

    name: str
    sentence: str
    finders: list[list[str]]
    path: Path


@dataclass(frozen=True)
class Finding:
    """What came of one bug; `words` is what the finder complained of."""

    bug: Bug
    found: bool
    words: str
    seconds: float


def bugs() -> list[Bug]:
    """Return all planted bugs by name."""
    found: list[Bug] = []
    for path in sorted(FOLDER.glob("*.patch")):
        head = path.read_text().split("\n--- ", 1)[0].splitlines()
        finders = [shlex.split(line.removeprefix("Found by:")) for line in head if line.startswith("Found by:")]
        sentence = " ".join(line for line in head if line and not line.startswith("Found by:"))
        assert finders, f"{path.name} does not say what finds it"
        found.append(Bug(path.stem, sentence, finders, path))
    return found


def plant(bug: Bug, sources: Path) -> None:
    """Copy the sources and break them.

    Raises:
        AssertionError: the patch does not fit.
    """
    shutil.copytree(REPOSITORY / "src", sources, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = ["patch", "--strip=1", "--no-backup-if-mismatch", "--reject-file=-", f"--input={bug.path}"]
    done = subprocess.run(command, cwd=sources.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{bug.path.name} does not fit any more:\n{done.stdout}{done.stderr}"


def ask(finder: list[str], sources: Path) -> tuple[bool, str]:
    """Run one finder over broken sources; return whether it complained, and its last words."""
    environment = {**os.environ, "PYTHONPATH": str(sources), "PYTHONHASHSEED": "0"}
    environment.pop("PYTEST_ADDOPTS", None)
    try:
        done = subprocess.run(
            [sys.executable, *finder],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, "it hangs"
    complaints = re.findall(
        r"^(?:E +|[ |]+)?(\w*(?:Error|Deadlock|Exception)\b:?.*|seed \d+)$", done.stdout, re.MULTILINE
    )
    # 1: a seed or a test failed. Anything else (2: usage, collection) is no finding.
    if done.returncode not in (0, 1):
        raise AssertionError(f"{shlex.join(finder)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.returncode == 1, ", ".join(complaints[-2:])[:160] or done.stdout[-160:].strip()


def control(finders: list[list[str]]) -> bool:
    """Let the finders look at sources without a bug; return whether they find nothing, as they should."""
    quiet = True
    for finder in finders:
        found, words = ask(finder, REPOSITORY / "src")
        print(
            f"{'FOUND' if found else 'nothing':9} without a bug: {shlex.join(finder)}{': ' + words if found else ''}",
            flush=True,
        )
        quiet &= not found
    return quiet


def look_for(bug: Bug) -> Finding:
    """Plant one bug and let its finders look."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ottla-planted-") as folder:
        sources = Path(folder) / "src"
        plant(bug, sources)
        found, words = False, ""
        for finder in bug.finders:
            found, words = ask(finder, sources)
            if found:
                break
    return Finding(bug, found, words, time.monotonic() - begun)


def main(names: list[str]) -> int:
    every = {bug.name: bug for bug in bugs()}
    finders = {shlex.join(finder): finder for bug in every.values() for finder in bug.finders}
    is_quiet = bool(names) or control(list(finders.values()))
    findings: list[Finding] = []
    for name in names or every:
        finding = look_for(every[name])
        findings.append(finding)
        print(
            f"{'found' if finding.found else 'NOT FOUND':9} {finding.seconds:5.1f} s  {name}: {finding.words}",
            flush=True,
        )
    missed = [finding.bug.name for finding in findings if not finding.found]
    print(f"{len(findings) - len(missed)} of {len(findings)} planted bugs were found")
    return 0 if is_quiet and not missed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
