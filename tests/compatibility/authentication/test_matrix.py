"""The matrix of logins beside Apache Kafka: the same conversations with both, and every fact of them compared.

`EXPLAINED` says where they may differ, and why. `python -m tests.compatibility.authentication.test_matrix` prints the table
of docs/logins-beside-kafka.md.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.compatibility.authentication.brokers import Doors, kafka_doors, make_identities, ottla_doors
from tests.compatibility.authentication.cells import CELLS, prepare

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning"),
]

#: Conversations at a time with one broker; those about ends of sessions are mostly waiting.
AT_ONCE = 6

#: Cells whose facts differ, and why.
EXPLAINED: dict[str, str] = {}


def _explain(reason: str, *names: str) -> None:
    EXPLAINED.update(dict.fromkeys(names, reason))


_explain(
    "An unknown SCRAM user is refused one step later, after a challenge: by when it is refused nobody can tell users apart.",
    *(f"SCRAM-SHA-{n} {row}: unknown user" for n in (256, 512) for row in ("plain", "over TLS")),
    "SCRAM: a user of the other mechanism",
    "SCRAM: the user is deleted and comes again",
    "token: unknown",
    "token: expired",
    "token: without saying that it is one",
    "token: a user's name and password as one",
)
_explain(
    "A request that is none of the login closes the connection; Kafka answers it with an error first.",
    "order: a request after the handshake",
    "again: a request in the middle",
)


async def outcomes(doors: Doors) -> dict[str, list[Any]]:
    """Return the facts of every conversation with one broker."""
    await prepare(doors)
    room = asyncio.Semaphore(AT_ONCE)

    async def tell(name: str) -> list[Any]:
        async with room:
            try:
                return await CELLS[name](doors)
            except Exception as error:
                raise AssertionError(f"{name}, {doors.name}: {error!r}") from error

    ordered = [name for name in CELLS if "deleted" in name]  # each of these is about what the one before it did
    others = [name for name in CELLS if name not in ordered]
    found = dict(zip(others, await asyncio.gather(*(tell(name) for name in others)), strict=True))
    for name in ordered:
        found[name] = await tell(name)
    return {name: json.loads(json.dumps(found[name])) for name in CELLS}


def both(directory: Path) -> Iterator[dict[str, list[Any]]]:
    identities = make_identities(directory)
    for make in (ottla_doors, kafka_doors):
        with make(identities) as doors:
            yield asyncio.run(outcomes(doors))


def test_logins_are_answered_as_by_apache_kafka(tmp_path: Path) -> None:
    ours, kafka = both(tmp_path)
    differ = {name: (ours[name], kafka[name]) for name in CELLS if ours[name] != kafka[name]}
    unexplained = {name: pair for name, pair in differ.items() if name not in EXPLAINED}
    shown = "\n".join(f"{name}\n    ottla        {a}\n    Apache Kafka {b}" for name, (a, b) in unexplained.items())
    assert not unexplained, f"{len(unexplained)} of {len(CELLS)} conversations differ:\n{shown}"
    assert EXPLAINED.keys() <= differ.keys(), "what does not differ needs no explanation"


def _shown(facts: list[Any]) -> str:
    """Say in a few words how a conversation ended."""
    steps = [fact for fact in facts if fact[0] != "closed"]
    if not steps or facts[-1] == ["refused"]:
        return "closed" if facts[-1] != ["refused"] else "refused"
    kind, *rest = steps[-1]
    end = ", closed" if facts[-1] == ["closed"] else ""
    if kind == "who":
        return str(rest[1]) or f"error {rest[0]}"
    if kind == "authenticate" and rest[0]:
        return f"error {rest[0]} ({rest[3] if len(rest) > 3 else 'step 1'})"
    if kind in ("handshake", "versions"):
        return f"error {rest[0]}{end}" if rest[0] else f"handshake answered{end}"
    served = "served" if rest[0] else "an error"
    return ("logged in" if kind == "authenticate" else served if kind == "works" else str(kind)) + end


def table(ours: dict[str, list[Any]], kafka: dict[str, list[Any]]) -> str:
    """Return the matrix as Markdown."""
    lines = ["| conversation | ottla | Apache Kafka |", "|---|---|---|"]
    for name in CELLS:
        other = "the same" if ours[name] == kafka[name] else _shown(kafka[name])
        lines.append(f"| {name} | {_shown(ours[name])} | {other} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print(table(*both(Path(made))))
