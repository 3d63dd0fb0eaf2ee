"""Nobody comes in who has not logged in, whatever is said, and those who have notice nothing of it.

The default run is a sample of the long one: `python -m tests.hostile.strangers --frames 1000000 --state FILE`, or `-m soak`
(OTTLA_STRANGERS_FRAMES, OTTLA_STRANGERS_SEED and OTTLA_STRANGERS_STATE change it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.strangers import run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and uses 127.0.0.0/8")


def judge(report: dict[str, Any], frames: int) -> None:
    """What `run` has not checked on the way: that they did what they should, and how the broker ended."""
    tally = report["tally"]
    assert tally["frames"] >= frames
    # Most connections are closed by the broker; a few send half a frame and wait.
    assert tally["closed"] > 0.8 * tally["visits"], tally
    assert tally["answers"] > 0.1 * tally["frames"], tally
    assert {name for name in tally if name.startswith("visits: ")} >= {"visits: token", "visits: TLS", "visits: bare"}
    assert report["ottla_logins_failed_total"] > 0.02 * frames
    assert report["calm_client"]["records"] >= 100
    assert report["exit_code"] == 0


def test_strangers_get_nothing_done() -> None:
    judge(run(1_500, 1), 1_500)


@pytest.mark.soak
def test_a_million_frames_of_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    frames = int(os.environ.get("OTTLA_STRANGERS_FRAMES", "1000000"))
    state = os.environ.get("OTTLA_STRANGERS_STATE")
    report = run(frames, int(os.environ.get("OTTLA_STRANGERS_SEED", "2")), Path(state) if state else None)
    with capsys.disabled():
        print("\n" + json.dumps(report))
    judge(report, frames)
