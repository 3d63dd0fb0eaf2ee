"""Thousands of seeds of every simulation; a run that was interrupted goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.soak import seeds

#: Where the progress of long runs is kept: a run that is complete begins anew.
STATES = Path(os.environ.get("OTTLA_SEEDS_STATE") or "build/seeds")
COUNT = int(os.environ.get("OTTLA_SEEDS") or 10_000)


@pytest.mark.soak
@pytest.mark.parametrize("simulation", sorted(seeds.SIMULATIONS))
def test_thousands_of_seeds(simulation: str) -> None:
    path = STATES / f"{simulation}.json"
    if path.exists() and json.loads(path.read_text())["next"] >= COUNT:
        path.unlink()
    assert seeds.run(simulation, first=0, count=COUNT, path=path, processes=2)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "state.json"
    assert not seeds.run("transactions", first=5, count=1, path=path, processes=1)  # one seed does not meet everything
    seeds.run("transactions", first=5, count=2, path=path, processes=1)
    assert json.loads(path.read_text())["next"] == 7
    assert "2 seeds from 5 passed" in capsys.readouterr().out
