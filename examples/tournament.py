"""A tournament's leader board, which changes with each goal: exactly once, although its two instances are killed in turn.

    python examples/tournament.py                    # starts a broker of its own; open the address that it prints
    python examples/tournament.py --seconds 30 --kills 5 --port 8000 --stay

The tournament is simulated: twelve teams, each plays each other twice, six matches at a time. Goals are rare and random;
each is a new score of its match. A team has three points for a match that it leads, one where it is even, until the next
goal.

What it shows of Streams: a table that is grouped by another key. A score that changes is subtracted as it was from the
standing of its team, and added as it is now. A score that was counted twice, or not at all, would make the board wrong for
ever, so this needs exactly_once_v2. Two instances, each a process with a directory of its own, share the partitions. Now and
then one of them gets `kill -9` and is started again; the other takes over meanwhile. At the end the board is compared with a
plain loop over all scores: the exit code is 0 if it is the same, else 1.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from typing import Any

from live_app import Event, Program, main, running, yesterday
from live_page import Bar, LivePage, Panel, Snapshot

from ottla.streams import App

NAMES = "Badgers Beavers Foxes Hares Herons Lynxes Martens Otters Owls Ravens Storks Wolves"
TEAMS = NAMES.split()
MINUTE_MS = 60_000
Standing = dict[str, int]


def make_app(servers: str, state_dir: str) -> App:
    """Keep the standing of each team, of the topic "scores", in the topic "standings"."""
    app = App(
        "tournament",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="200ms",
        config={"session.timeout.ms": 3000, "heartbeat.interval.ms": 500},  # so soon a dead instance is replaced
    )
    # A score is of one side of a match: {"team": "Owls", "goals": 2, "against": 1} under "Owls-Foxes/Owls".
    sides = app.table("scores", key=str, value="json").group_by(
        lambda side, score: (score["team"], score), key=str, value="json", name="by-team"
    )
    standings = sides.aggregate(
        lambda: {"points": 0, "matches": 0, "goals": 0, "against": 0},
        lambda team, score, standing: change(standing, score, +1),
        lambda team, score, standing: change(standing, score, -1),
        store="standings",
    )
    standings.to_stream().to("standings", key=str, value="json")
    return app


def change(standing: Standing, score: dict[str, Any], sign: int) -> Standing:
    """Return the standing with a score added (+1) or subtracted (-1)."""
    lead = score["goals"] - score["against"]
    gained = {
        "points": 3 if lead > 0 else int(lead == 0),
        "matches": 1,
        "goals": score["goals"],
        "against": score["against"],
    }
    return {name: standing[name] + sign * number for name, number in gained.items()}


def season(seed: int) -> list[Event]:
    """Return all scores of all matches: each match begins with nil to nil; a goal makes two records, one of each side."""
    dice = random.Random(seed)
    strength = {team: dice.uniform(0.6, 2.4) for team in TEAMS}  # goals in a match
    matches = list(itertools.permutations(TEAMS, 2))
    dice.shuffle(matches)
    start, events = yesterday(10), []
    for number, match in enumerate(matches):
        goals = dict.fromkeys(match, 0)
        kick_off = start + number // 6 * 30 * MINUTE_MS
        for minute in range(90):
            scorers = [team for team in match if dice.random() < strength[team] / 90]
            for team in scorers:
                goals[team] += 1
            if minute == 0 or scorers:
                for team, other in (match, match[::-1]):
                    score = {"team": team, "goals": goals[team], "against": goals[other]}
                    at = kick_off + minute * MINUTE_MS // 3
                    events.append(Event(at, "scores", f"{'-'.join(match)}/{team}", score))
    return events


def plain_loop(events: list[Event]) -> dict[str, Standing]:
    """Return the standings: from the last score of each side of a match."""
    standings = {team: {"points": 0, "matches": 0, "goals": 0, "against": 0} for team in TEAMS}
    for score in {event.key: event.value for event in events}.values():
        standings[score["team"]] = change(standings[score["team"]], score, +1)
    return standings


def board(standings: dict[str, Standing]) -> list[tuple[str, Standing]]:
    """Return teams by points, then by goals."""
    return sorted(
        standings.items(), key=lambda item: (-item[1]["points"], item[1]["against"] - item[1]["goals"], item[0])
    )


def draw(standings: dict[str, Standing]) -> list[Panel]:
    """Return the board as bars and as a table."""
    order = board(standings)
    rows = [
        [team, str(at["matches"]), f"{at['goals']}:{at['against']}", str(at["points"])]
        for team, at in order
        if at["matches"]
    ]
    return [
        Panel(title="points", bars=[Bar(label=team, parts=[standing["points"]]) for team, standing in order]),
        Panel(title="leader board", head=["team", "matches", "goals", "points"], rows=rows),
    ]


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Send the scores, kill an instance now and then, show the board, and compare at the end."""
    events = season(options.seed)
    expected = plain_loop(events)
    standings: dict[str, Standing] = {}

    def is_complete() -> bool:
        return standings == expected and application.deaths >= options.kills

    with running("tournament", instances=2, scores={"partitions": 4}, standings={"partitions": 1}) as application:
        for now in application.play(events, options.seconds, is_complete):
            standings |= {record.key: record.value for record in application.read("standings")}
            due = int(now.progress * (options.kills + 1)) > application.deaths
            if standings and due and application.deaths < options.kills:
                victim = application.deaths % 2
                application.kill(victim)
                application.start(victim)
            figures = [("scores", f"{now.sent:,}"), ("instances killed", str(application.deaths))]
            panels = draw(standings)
            page.show(Snapshot(status="they play", progress=now.progress, figures=figures, panels=panels))
        is_right = is_complete()
    end = "the board is that of a plain loop over all scores" if is_right else "the board is WRONG"
    page.show(
        Snapshot(status=f"the tournament is over; {end}", progress=1, is_done=True, figures=figures, panels=panels)
    )
    for team, standing in board(standings)[:3]:
        print(f"{team:<10}{standing['points']:>4} points, {standing['goals']} goals in {standing['matches']} matches")
    print(f"{len(events):,} scores, {application.deaths} instances killed: {end}", flush=True)
    return is_right


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=3, help="how often an instance is killed (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="tournament",
                doc=__doc__,
                title="A tournament's leader board",
                about="Simulated matches of twelve teams. The board changes with each goal, and is exact although the two "
                "instances that keep it are killed in turn.",
                legend=[],
                seconds=60,
                make_app=make_app,
                play=play,
                add_options=add_options,
            )
        )
    )
