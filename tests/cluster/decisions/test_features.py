"""Which updates of finalized features are allowed: what Apache Kafka 4.3.1 answered to the same wishes."""

from __future__ import annotations

import pytest

from ottla.cluster.decisions.features import FeatureUpdate, finalized, update_features
from ottla.cluster.decisions.refusal import Refusal
from ottla.errors import ErrorCode

UPGRADE, SAFE, UNSAFE = 1, 2, 3
HIGHEST = {"group.version": 1, "share.version": 1, "streams.version": 1, "transaction.version": 2}


def test_a_new_cluster_has_the_highest_levels() -> None:
    assert finalized({}) == HIGHEST


def test_levels_that_this_version_does_not_support_are_brought_within_bounds() -> None:
    assert finalized({"transaction.version": 9, "group.version": 0, "no.such": 3}) == {**HIGHEST, "group.version": 0}


@pytest.mark.parametrize("kind", [SAFE, UNSAFE])
def test_a_level_goes_down_only_as_a_downgrade_and_up_only_as_an_upgrade(kind: int) -> None:
    lowered = update_features({}, [FeatureUpdate("transaction.version", 0, kind)])
    assert lowered == {**HIGHEST, "transaction.version": 0}
    assert not isinstance(lowered, Refusal)
    assert isinstance(update_features(lowered, [FeatureUpdate("transaction.version", 1, kind)]), Refusal)
    assert update_features(lowered, [FeatureUpdate("transaction.version", 2, UPGRADE)]) == HIGHEST


@pytest.mark.parametrize(
    ("update", "why"),
    [
        (FeatureUpdate("group.version", 0, UPGRADE), "it is at 1, and the upgrade type does not allow a downgrade"),
        (FeatureUpdate("group.version", 2, UPGRADE), "supports levels 0 to 1"),
        (FeatureUpdate("group.version", -1, SAFE), "never negative"),
        (FeatureUpdate("group.version", 1, 0), "0 is no upgrade type"),
        (FeatureUpdate("group.version", 1, 4), "4 is no upgrade type"),
        (FeatureUpdate("metadata.version", 30, UPGRADE), "no such feature"),
        (FeatureUpdate("", 0, SAFE), "no such feature"),
    ],
)
def test_a_refusal_says_why(update: FeatureUpdate, why: str) -> None:
    refusal = update_features({}, [update])
    assert isinstance(refusal, Refusal)
    assert refusal.error == ErrorCode.INVALID_UPDATE_VERSION
    assert refusal.message is not None
    assert why in refusal.message


def test_one_refusal_refuses_all() -> None:
    updates = [FeatureUpdate("group.version", 0, SAFE), FeatureUpdate("streams.version", 7)]
    assert isinstance(update_features({}, updates), Refusal)


def test_of_two_updates_of_one_feature_the_last_counts() -> None:
    updates = [FeatureUpdate("group.version", 9), FeatureUpdate("group.version", 0, SAFE)]
    assert update_features({}, updates) == {**HIGHEST, "group.version": 0}
