"""Run the script, normalise two transcripts, list every difference."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from tests.compatibility.differential.rules import ANYTHING, RULES, Side, is_fault
from tests.compatibility.differential.scenarios import (
    cluster,
    configs,
    consumer_groups,
    features,
    fetch,
    frames,
    groups,
    offsets,
    produce,
    security,
    share_fetch,
    share_groups,
    share_state,
    streams_groups,
    telemetry,
    topics,
    transactions,
)
from tests.compatibility.differential.script import NOT_SCRIPTED, ONLY_IN_4_4, Scenario, versions
from tests.compatibility.differential.wire import Exchange, Transcript, Wire

from ottla.protocol.api import APIS, SERVED, ApiKey

MODULES = (
    frames,
    topics,
    produce,
    fetch,
    groups,
    offsets,
    configs,
    cluster,
    security,
    telemetry,
    transactions,
    share_groups,
    consumer_groups,
    streams_groups,
    share_state,
    share_fetch,
    features,
)


def all_scenarios() -> list[tuple[str, Scenario]]:
    return [
        (f"{module.__name__.rpartition('.')[2]}.{scenario.__name__}", scenario)
        for module in MODULES
        for scenario in module.SCENARIOS
    ]


def run_script(broker: str, port: int, only: Collection[str] = ()) -> Transcript:
    """Ask everything (or `only` some scenarios) of one broker.

    A scenario that cannot go on is noted, and the next one begins.
    """
    wire = Wire(broker, port)
    try:
        for name, scenario in all_scenarios():
            if only and name not in only:
                continue
            wire.scope = name
            try:
                scenario(wire)
            except Exception as error:  # whatever a script meets in an answer it did not expect
                wire.transcript.exchanges.append(
                    Exchange(f"{name}: aborted", -1, 0, f"aborted: {type(error).__name__}: {error}")
                )
            wire.close()
    finally:
        wire.close()
    return wire.transcript


@dataclass(frozen=True, slots=True)
class Difference:
    label: str
    path: str
    reference: Any
    candidate: Any

    def __str__(self) -> str:
        return f"{self.label}\n    {self.path or 'outcome'}: {self.reference!r} -> {self.candidate!r}"


@dataclass(slots=True)
class Comparison:
    """`uses` counts how often each rule changed an answer."""

    compared: int = 0
    asked: set[tuple[int, int]] = field(default_factory=set)
    differences: list[Difference] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)


def normalised(transcript: Transcript, *, is_reference: bool, uses: Counter[str]) -> list[tuple[Exchange, Any]]:
    side = Side(transcript, is_reference)
    rows = []
    for exchange in transcript.exchanges:
        tree = copy.deepcopy(exchange.tree)
        if exchange.outcome == "answer":
            for rule in RULES:
                if rule.apply(exchange, tree, side):
                    uses[rule.name] += 1
        rows.append((exchange, tree))
    return rows


def compare(reference: Transcript, candidate: Transcript, *, same_broker: bool = False) -> Comparison:
    """Every difference between two transcripts that no rule explains.

    With `same_broker` the candidate is another run of the reference: that shows whether the script repeats itself.
    """
    result = Comparison()
    left = _by_label(normalised(reference, is_reference=True, uses=result.uses))
    right = _by_label(normalised(candidate, is_reference=same_broker, uses=result.uses))
    for label in [*left, *(label for label in right if label not in left)]:
        ours, theirs = right.get(label), left.get(label)
        if ours is None or theirs is None:
            present = theirs or ours
            assert present is not None
            side = ("asked", "not asked") if theirs else ("not asked", "asked")
            result.differences.append(Difference(label, "", *side))
            continue
        result.compared += 1
        result.asked.add((theirs[0].key, theirs[0].version))
        if is_fault(theirs[0]):
            continue
        if theirs[0].outcome != ours[0].outcome:
            shown = [
                pair[0].outcome if not pair[1] else f"{pair[0].outcome} {_short(pair[1])}" for pair in (theirs, ours)
            ]
            result.differences.append(Difference(label, "", *shown))
        else:
            result.differences += [Difference(label, *row) for row in tree_differences(theirs[1], ours[1])]
    return result


def _by_label(rows: list[tuple[Exchange, Any]]) -> dict[str, tuple[Exchange, Any]]:
    seen: Counter[str] = Counter()
    labelled = {}
    for exchange, tree in rows:
        seen[exchange.label] += 1
        count = seen[exchange.label]
        labelled[exchange.label if count == 1 else f"{exchange.label} ({count})"] = (exchange, tree)
    return labelled


def tree_differences(left: Any, right: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Paths where two trees differ, with both values."""
    if left is ANYTHING:
        return []
    if isinstance(left, dict) and isinstance(right, dict):
        rows = []
        for name in [*left, *(name for name in right if name not in left)]:
            rows += tree_differences(
                left.get(name, "<absent>"), right.get(name, "<absent>"), f"{path}.{name}".lstrip(".")
            )
        return rows
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return [(f"{path} (length)", _names(left), _names(right))]
        rows = []
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            rows += tree_differences(one, other, f"{path}[{_name(one, index)}]")
        return rows
    return [] if left == right and type(left) is type(right) else [(path, left, right)]


def _name(item: Any, index: int) -> Any:
    return item.get("name", index) if isinstance(item, dict) else index


def _names(items: list[Any]) -> Any:
    names = [_name(item, index) for index, item in enumerate(items)]
    return f"{len(items)}: {names}" if len(str(names)) < 300 else f"{len(items)} items"


def _short(tree: Any) -> str:
    text = repr(tree)
    return text if len(text) < 300 else text[:300] + "..."


def missing_versions(result: Comparison) -> list[str]:
    """Served versions that the script did not ask about although both brokers have them."""
    wanted = {(key, version) for key in SERVED if key not in NOT_SCRIPTED for version in versions(key)}
    return [f"{APIS[ApiKey(key)].name} v{version}" for key, version in sorted(wanted - result.asked)]


def report(result: Comparison) -> str:
    """What a reader wants to know: how much was compared, which rules were needed, what is left."""
    only = [f"{APIS[key].name} v{version}" for key, numbers in ONLY_IN_4_4.items() for version in numbers]
    asked = {(key, version) for key, version in result.asked if key in SERVED and version in versions(ApiKey(key))}
    lines = [
        f"{result.compared} answers compared, {len(asked)} versions of {len({key for key, _ in asked})} APIs",
        f"not comparable, only in Kafka 4.4: {', '.join(only)}",
        f"served, but not asked by any scenario: {', '.join(APIS[key].name for key in sorted(NOT_SCRIPTED))}",
        f"{len(RULES)} rules:",
        *(f"  {result.uses[rule.name]:>6} x {rule.name}: {rule.reason}" for rule in RULES),
        f"{len(result.differences)} unexplained differences",
    ]
    for scenario, rows in _grouped(result.differences).items():
        lines.append(f"\n{scenario}")
        for (api, name, path, reference, candidate), found in rows.items():
            lines.append(f"  {api} {_spans(found)}: {name}\n      {path or 'outcome'}: {reference} -> {candidate}")
    return "\n".join(lines)


def _grouped(differences: list[Difference]) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Scenario -> (API, question, path, reference, candidate) -> the versions that differ in this way."""
    scenarios: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in differences:
        head, _, rest = row.label.partition(": ")
        api, _, version = head.rpartition(" ")
        scenario, _, name = rest.partition(": ")
        scenarios[scenario][api, name, row.path, _short(row.reference), _short(row.candidate)].append(version)
    return scenarios


def _spans(found: list[str]) -> str:
    return found[0] if len(set(found)) == 1 else f"{found[0]}..{found[-1]} ({len(found)})"
