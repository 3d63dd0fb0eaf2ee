"""Every served version of every API, asked of Apache Kafka and of ottla: no difference without an explanation."""

from __future__ import annotations

import pytest
from tests.compatibility.differential.compare import compare, missing_versions, report
from tests.compatibility.differential.rules import RULES
from tests.compatibility.differential.script import ONLY_IN_4_4, versions
from tests.compatibility.differential.wire import Transcript

from ottla.protocol.api import ADVERTISED, TELEMETRY, ApiKey

pytestmark = pytest.mark.kafka


def test_no_answer_differs_without_an_explanation(both_transcripts: tuple[Transcript, Transcript]) -> None:
    result = compare(*both_transcripts)
    print("\n" + report(result))
    assert missing_versions(result) == []
    assert result.differences == []


def test_there_are_at_most_twenty_rules_and_none_is_idle(both_transcripts: tuple[Transcript, Transcript]) -> None:
    result = compare(*both_transcripts)
    assert len(RULES) <= 20
    assert [rule.name for rule in RULES if not result.uses[rule.name]] == []


def test_no_scenario_was_cut_short(both_transcripts: tuple[Transcript, Transcript]) -> None:
    for transcript in both_transcripts:
        assert [row.name for row in transcript.exchanges if row.outcome.startswith("aborted")] == []


def test_the_reference_serves_what_the_script_takes_for_comparable(
    both_transcripts: tuple[Transcript, Transcript],
) -> None:
    """The list of versions that only Kafka 4.4 has is not longer than it must be."""
    reference, _ = both_transcripts
    answer = next(row for row in reference.exchanges if row.key == ApiKey.API_VERSIONS and row.outcome == "answer")
    assert answer.tree is not None
    served = {row.api_key: (row.min_version, row.max_version) for row in answer.tree.api_keys}
    for key, (low, high) in ADVERTISED.items():
        if key in TELEMETRY:  # Kafka has no receiver for them here, and does not say that it would answer
            continue
        newest = high - len(ONLY_IN_4_4.get(key, []))
        if newest < low:
            assert key not in served, key
            continue
        assert served[key] == (low, newest), key
        assert versions(key)[-1] == newest
