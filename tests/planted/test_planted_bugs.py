"""Every planted bug is found: a test that cannot fail shows nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.planted.__main__ import Bug, bugs, control, look_for, plant

ALL = bugs()


def test_every_patch_fits(tmp_path: Path) -> None:
    for bug in ALL:
        folder = tmp_path / bug.name
        folder.mkdir()
        plant(bug, folder / "src")


@pytest.mark.soak
def test_nothing_is_found_without_a_bug() -> None:
    assert control(list({shlex.join(finder): finder for bug in ALL for finder in bug.finders}.values()))


@pytest.mark.soak
@pytest.mark.parametrize("bug", ALL, ids=[bug.name for bug in ALL])
def test_a_planted_bug_is_found(bug: Bug) -> None:
    finding = look_for(bug)
    print(f"\n{bug.name}: {finding.words} ({finding.seconds:.1f} s)")
    assert finding.found, bug.sentence
