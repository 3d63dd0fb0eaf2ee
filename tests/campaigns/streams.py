"""A stream application and its broker killed under load, for hours: the results stay those of the batch computation.

    python -m tests.campaigns.streams --kills 200 --state build/streams-kills.json
    python -m tests.campaigns.streams --kills 200 --kafka --state build/streams-kills-kafka.json

Rounds of 20 kills, each with a seed of its own, on two instances: words counted through a repartition topic, and clicks
counted by user and second. After each round everything is compared (`tests/streams/runtime/killing.py`), and the file says
how many kills there were; started again, the campaign goes on there. A difference ends it with exit code 1, and its seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.client.conftest import make_broker
from tests.streams.runtime.killing import Campaign

ROUND = 20
#: Seconds between two kills, at least and at most: on a crowded machine an instance needs some to come up at all.
GAP_S = (4.0, 12.0)
#: Seconds until everything that was written has to be counted.
SETTLE_S = 900.0


def run_round(kind: str, seed: int, kills: int, keep: Path) -> tuple[Counter[str], dict[str, int]]:
    """Kill so often; return what was killed, and how many records there were.

    Args:
        keep: a folder for the logs and the broker's data of a round that failed.

    Raises:
        AssertionError: the results differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(make_broker(kind), Path(folder), seed=seed, pause_s=0.1)
        try:
            campaign.start()
            for _ in range(kills):
                time.sleep(campaign.dice.uniform(*GAP_S))
                campaign.kill_something()
            return campaign.kills, campaign.settle(SETTLE_S)
        except BaseException:
            campaign.freeze()
            shutil.copytree(folder, keep / "instances", dirs_exist_ok=True)
            shutil.copytree(campaign.broker.data_dir, keep / "broker", dirs_exist_ok=True)
            (keep / "broker.log").write_text(str(getattr(campaign.broker, "output", "")))
            raise
        finally:
            campaign.close()


def main() -> int:
    """Run the campaign; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kafka", action="store_true", help="against Apache Kafka")
    parser.add_argument("--state", type=Path, required=True, help="file that says how far it is")
    chosen = parser.parse_args()
    state: dict[str, Any] = {"rounds": 0, "killed": {}, "records": {}}
    if chosen.state.exists():
        state = json.loads(chosen.state.read_text())
    killed, records = Counter(state["killed"]), Counter(state["records"])
    while (done := killed["instance"] + killed["broker"]) < chosen.kills:
        seed = state["rounds"]
        keep = chosen.state.with_suffix(f".failed-{seed}")
        try:
            more, counted = run_round("kafka" if chosen.kafka else "ottla", seed, min(ROUND, chosen.kills - done), keep)
        except AssertionError as error:
            print(f"seed {seed}: {error}\nlogs and data are in {keep}", file=sys.stderr)
            return 1
        killed.update(more)
        records.update(counted)
        state = {"rounds": seed + 1, "killed": dict(killed), "records": dict(records)}
        chosen.state.parent.mkdir(parents=True, exist_ok=True)
        chosen.state.write_text(json.dumps(state, indent=2) + "\n")
        print(
            f"{killed['instance'] + killed['broker']} of {chosen.kills} kills: {dict(killed)}, equal; {dict(records)}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
