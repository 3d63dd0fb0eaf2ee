"""Mutated frames by the ten thousand: the broker lives, holds little, says little, and others notice nothing.

The default run is a sample of the long one (`make test-soak`: 10^6 frames; OTTLA_HOSTILE_FRAMES, _SEED and _START
change it). `python -m tests.hostile.storm --seed S --start I --frames N` repeats a part of a run.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
from tests.hostile.storm import CONNECTIONS
from tests.hostile.trial import RESIDENT_LEFT_MAX, Trial

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and uses 127.0.0.0/8")

#: What one request may hold at its worst: a batch unpacks to no more than a frame may be (socket.request.max.bytes).
ONE_BOMB = 100 << 20
#: What the storm may add to the broker's memory at its peak: its connections may send bombs at the same time.
RESIDENT_GROWTH_MAX = CONNECTIONS * ONE_BOMB


def judge(report: dict[str, Any], frames: int) -> None:
    """Fail unless the trial went as it must."""
    assert report["frames"] == frames
    assert report["bad_log_lines"] == []
    assert report["exit_code"] == 0
    assert report["share_reached"] >= 0.5
    # Two counts of one thing: the answers we saw and the requests the broker gave to handlers.
    assert report["counted_by_the_broker"] >= report["reached_a_handler"] * 0.99
    assert report["calm_client"]["records"] >= 100


def test_twenty_thousand_mutated_frames_disturb_nobody() -> None:
    frames = 20_000
    with Trial(seed=1) as trial:
        trial.send(0, frames)
        report = trial.finish()
    judge(report, frames)
    assert trial.resident_max - trial.resident_before < RESIDENT_GROWTH_MAX, report
    assert report["rss_mib_after"] - report["rss_mib_before"] < RESIDENT_LEFT_MAX >> 20, report
    # No API is left out.
    assert report["apis_reached"] >= 33, report


@pytest.mark.soak
def test_a_million_mutated_frames(capsys: pytest.CaptureFixture[str]) -> None:
    frames = int(os.environ.get("OTTLA_HOSTILE_FRAMES", "1000000"))
    seed = int(os.environ.get("OTTLA_HOSTILE_SEED", "2"))
    start = int(os.environ.get("OTTLA_HOSTILE_START", "0"))
    resident: list[int] = []
    with Trial(seed=seed) as trial:
        parts = 20
        for part in range(parts):
            first, end = frames * part // parts, frames * (part + 1) // parts
            trial.send(start + first, end - first)
            resident.append(trial.resident_bytes())
        report = trial.finish()
    with capsys.disabled():
        print("\n" + json.dumps({**report, "rss_mib_on_the_way": [value >> 20 for value in resident]}))
    judge(report, frames)
    assert trial.resident_max - trial.resident_before < RESIDENT_GROWTH_MAX, report
    assert report["rss_mib_after"] - report["rss_mib_before"] < RESIDENT_LEFT_MAX >> 20, report
    # No leak: what the second half adds is little for each frame. It is not nothing: some thousand commits name groups
    # that did not exist, and their offsets are kept (measured: 32 MiB over the second half million).
    assert resident[-1] - resident[len(resident) // 2] < (16 << 20) + 32 * frames, resident
