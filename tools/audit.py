"""Look for known faults of what the lock files pin, in a checkout of the Python Packaging Advisory Database. No network.

    git clone https://github.com/pypa/advisory-database
    make audit ADVISORIES=advisory-database

Prints each fault that a pinned version has, and how old the database is: what it does not know it cannot say. Ends with 1
if there is a fault, and with 2 if the newest advisory is older than `--days-max` days.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parents[1]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", re.MULTILINE)
DAYS_MAX = 30


class Fault(NamedTuple):
    """An advisory about a pinned version. `also` has its other names: CVE-..., GHSA-..."""

    name: str
    version: str
    advisory: str
    also: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        fixed = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no version has it fixed"
        return f"{self.name} {self.version}: {self.advisory} ({', '.join(self.also)}), {fixed}"


def pins_of(lock: str) -> dict[str, str]:
    """Return the version of each package that a lock file pins, by its normalized name."""
    return {canonicalize_name(name): version for name, version in _PIN.findall(lock)}


def faults_of(pins: Mapping[str, str], database: Path) -> Iterator[Fault]:
    """Yield the faults of pinned versions that the database knows."""
    for name, version in sorted(pins.items()):
        for path in sorted((database / "vulns" / name).glob("*.yaml")):
            advisory = read(path)
            if advisory.get("withdrawn"):
                continue
            for affected in advisory.get("affected", ()):
                if canonicalize_name(affected["package"]["name"]) == name and is_affected(version, affected):
                    yield Fault(
                        name, version, advisory["id"], tuple(advisory.get("aliases", ())), tuple(_fixed(affected))
                    )


def is_affected(version: str, affected: Mapping[str, Any]) -> bool:
    """Return whether a version is one of those an advisory is about (the OSV format's rules)."""
    wanted = Version(version)
    if any(_version(one) == wanted for one in affected.get("versions", ())):
        return True
    for events in (one["events"] for one in affected.get("ranges", ()) if one["type"] == "ECOSYSTEM"):
        inside = False
        for event in sorted(events, key=_event_version):
            kind = next(iter(event))
            at = _event_version(event)
            if kind == "introduced" and wanted >= at:
                inside = True
            elif (kind == "fixed" and wanted >= at) or (kind == "last_affected" and wanted > at):
                inside = False
        if inside:
            return True
    return False


def newest_of(database: Path) -> datetime:
    """Return when the newest advisory was published or changed."""
    found = [
        datetime.fromisoformat(str(text).replace("Z", "+00:00"))
        for path in (database / "vulns").glob("*/*.yaml")
        for text in re.findall(r"^(?:modified|published): ['\"]?([^'\"\n]+)", path.read_text(), re.MULTILINE)
    ]
    if not found:
        raise SystemExit(f"{database} has no vulns/*/*.yaml: it is no checkout of pypa/advisory-database")
    return max(one if one.tzinfo else one.replace(tzinfo=UTC) for one in found)


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict), path
    return found


def _fixed(affected: Mapping[str, Any]) -> Iterator[str]:
    for one in affected.get("ranges", ()):
        if one["type"] == "ECOSYSTEM":
            yield from (str(event["fixed"]) for event in one["events"] if "fixed" in event)


def _event_version(event: Mapping[str, object]) -> Version:
    return _version(next(iter(event.values()))) or Version("0")


def _version(text: object) -> Version | None:
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Known faults of what the lock files pin")
    parser.add_argument("database", type=Path, help="a checkout of pypa/advisory-database")
    parser.add_argument("--days-max", type=int, default=DAYS_MAX, help="how old its newest advisory may be")
    options = parser.parse_args()
    newest = newest_of(options.database)
    pins: dict[str, set[str]] = {}
    for lock in sorted(ROOT.glob("requirements*.lock")):
        for name, version in pins_of(lock.read_text()).items():
            pins.setdefault(name, set()).add(version)
    faults = [
        fault
        for name, versions in pins.items()
        for version in versions
        for fault in faults_of({name: version}, options.database)
    ]
    days = (datetime.now(UTC) - newest).days
    print(
        f"{len(pins)} packages, {len(faults)} known faults; the newest advisory is of {newest:%Y-%m-%d}, {days} days old"
    )
    for fault in faults:
        print(fault)
    if faults:
        return 1
    if days > options.days_max:
        print("The database is too old to say that there are none: get a newer one.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
