"""What has been measured: one line of JSON for each finished pair, one file for each commit of the broker.

The commit is the last one that changed what is measured (`MEASURED`), not the one the benchmark was run from: committing
results, or a test, does not make them stale. Uncommitted changes are part of the name. A pair that is there for the same
commit, case, parameters, scale and contestants is not run again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MEASURED = ("src", "setup.py", "pyproject.toml", "requirements.lock")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Figures of one case for every contestant, taken one right after the other."""

    case: str
    parameters: Mapping[str, object]
    number: int
    commit: str
    scale: float
    at: str
    #: Contestants in the order they ran.
    order: tuple[str, ...]
    #: Load average over a minute, before and after.
    load: tuple[float, float]
    seconds: float
    versions: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]

    @property
    def key(self) -> Key:
        return key(self.commit, self.case, self.parameters, self.number, self.scale, self.figures)


Key = tuple[str, str, str, int, float, tuple[str, ...]]


def key(
    commit: str,
    case: str,
    parameters: Mapping[str, object],
    number: int,
    scale: float,
    contestants: Iterable[str],
) -> Key:
    """What makes two pairs the same measurement."""
    return commit, case, json.dumps(parameters, sort_keys=True), number, scale, tuple(sorted(contestants))


class Store:
    """The file of one commit."""

    def __init__(self, directory: Path, commit: str) -> None:
        self.path = directory / f"{commit}.jsonl"
        self.commit = commit

    def pairs(self) -> list[Pair]:
        """Return what is there; a last line that was cut off by a kill is left out."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:
                continue
            values["order"], values["load"] = tuple(values["order"]), tuple(values["load"])
            found.append(Pair(**values))
        return found

    def add(self, pair: Pair) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(_rounded(asdict(pair)))
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"\n", b"")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n" if whole else "\n" + line + "\n")


def done(pairs: Iterable[Pair]) -> set[Key]:
    return {pair.key for pair in pairs}


def commit() -> str:
    """Return the commit of what is measured, with a digest of what is not committed."""
    latest = _git("log", "-1", "--format=%h", "--abbrev=12", "--", *MEASURED).strip()
    changes = _git("diff", "HEAD", "--", *MEASURED)
    if changes:
        return f"{latest}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}"
    return latest or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
    return done.stdout


def _rounded(value: Any) -> Any:
    """Six digits are more than any of these figures has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value
