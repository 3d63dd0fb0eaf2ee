"""Live cricket: the scores of four matches at once, and what each batter has made of the runs of their side.

    python examples/cricket.py                       # starts a broker of its own; open the address that it prints
    python examples/cricket.py --seconds 20 --port 8000 --stay

The matches are simulated, ball by ball: twenty overs a side, runs and wickets by dice that resemble those of such matches,
and no extras. A record is one ball: who batted, for which innings, how many runs, whether it took a wicket.

What it shows of Streams: two aggregations of one stream, and a join of two tables by a `foreign_key`. Each batter's line
names an innings; when the innings gets a run, the lines of all its batters change, since each says what part of its runs
is theirs. (An answer of the join that is out of date when it comes is passed over; the application says so.) Lines and
scores are compared with those of a plain loop: the exit code is 0 if they are equal, else 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

from live_app import Event, Program, main, running, yesterday
from live_page import Bar, LivePage, Panel, Snapshot

from ottla.streams import App

MATCHES = [("Herons", "Otters"), ("Foxes", "Badgers"), ("Owls", "Wolves"), ("Lynxes", "Ravens")]
WICKET = -1
#: What a ball may bring, and how often of 100.
RUNS = {0: 33, 1: 39, 2: 7, 3: 1, 4: 11, 6: 4, WICKET: 5}
Row = dict[str, Any]


def make_app(servers: str, state_dir: str) -> App:
    """Make "scores" (by innings) and "lines" (by batter) of the topic "balls"."""
    app = App(
        "cricket", servers, processing_guarantee="exactly_once_v2", state_dir=state_dir, commit_interval_ms="200ms"
    )
    balls = app.stream("balls", key=str, value="json")
    by_innings = balls.map(lambda match, ball: (ball["innings"], one_ball(ball)), key=str, value="json").group_by_key(
        name="by-innings"
    )
    by_batter = balls.map(lambda match, ball: (ball["batter"], one_ball(ball)), key=str, value="json").group_by_key(
        name="by-batter"
    )
    scores = by_innings.reduce(added, store="scores")
    batters = by_batter.reduce(added, store="batters")
    lines = batters.join(
        scores, line, foreign_key=lambda batter: batter["innings"], store="lines", name="line-of-innings"
    )
    scores.to_stream().to("scores", key=str, value="json")
    lines.to_stream().to("lines", key=str, value="json")
    return app


def one_ball(ball: Row) -> Row:
    """Return what a ball adds to the score of its innings and its batter."""
    return {"innings": ball["innings"], "runs": ball["runs"], "wickets": ball["wicket"], "balls": 1}


def added(so_far: Row, more: Row) -> Row:
    """Return the sum of two scores."""
    return {**so_far, **{name: so_far[name] + more[name] for name in ("runs", "wickets", "balls")}}


def line(batter: Row, score: Row) -> Row:
    """Return a batter's line: with the part of the innings' runs, in percent."""
    return {**batter, "percent": round(100 * batter["runs"] / score["runs"]) if score["runs"] else 0}


def play_match(number: int, dice: random.Random) -> list[Event]:
    """Return the balls of a match: both innings, the second until it has more runs than the first."""
    at, events, target = yesterday(14), [], sys.maxsize
    for team in MATCHES[number]:
        runs, facing, other, following = 0, 1, 2, 3
        for ball in range(120):
            made = dice.choices(list(RUNS), list(RUNS.values()))[0]
            wicket, scored = made == WICKET, max(made, 0)
            innings = f"{number + 1}/{team}"
            value = {"innings": innings, "batter": f"{team} {facing}", "runs": scored, "wicket": int(wicket)}
            events.append(Event(at, "balls", str(number + 1), value))
            at += dice.randrange(25_000, 55_000)
            runs += scored
            if runs > target or (following > 11 and wicket):
                break
            if wicket:
                facing, following = following, following + 1
            if scored % 2 != (ball % 6 == 5):  # an odd number of runs, or the end of an over, but not both
                facing, other = other, facing
        target = runs
    return events


def plain_loop(events: list[Event]) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return scores and lines."""
    scores: dict[str, Row] = {}
    batters: dict[str, Row] = {}
    for event in events:
        ball = event.value
        for rows, name in ((scores, ball["innings"]), (batters, ball["batter"])):
            row = rows.setdefault(name, {"innings": ball["innings"], "runs": 0, "wickets": 0, "balls": 0})
            row["runs"] += ball["runs"]
            row["wickets"] += ball["wicket"]
            row["balls"] += 1
    return scores, {name: line(batter, scores[batter["innings"]]) for name, batter in batters.items()}


def draw(scores: dict[str, Row], lines: dict[str, Row]) -> list[Panel]:
    """Return the best batters of all, and each match: its scores, and the batters of both sides."""
    best = sorted(lines.items(), key=lambda item: (-item[1]["runs"], item[0]))
    panels = [Panel(title="most runs", bars=[Bar(label=name, parts=[row["runs"]]) for name, row in best[:10]])]
    for number, teams in enumerate(MATCHES, 1):
        found = [(team, scores[f"{number}/{team}"]) for team in teams if f"{number}/{team}" in scores]
        title = ", ".join(
            f"{team} {row['runs']}/{row['wickets']} ({row['balls'] // 6}.{row['balls'] % 6})" for team, row in found
        )
        rows = [
            [name + ("" if row["wickets"] else " *"), str(row["runs"]), str(row["balls"]), f"{row['percent']} %"]
            for name, row in best
            if row["innings"].startswith(f"{number}/")
        ]
        panels.append(
            Panel(title=title or " v ".join(teams), head=["batter", "runs", "balls", "of all"], rows=rows[:8])
        )
    return panels


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Play the matches, show scores and lines, and compare at the end."""
    dice = random.Random(options.seed)
    events = [event for number in range(len(MATCHES)) for event in play_match(number, dice)]
    expected = plain_loop(events)
    scores: dict[str, Row] = {}
    lines: dict[str, Row] = {}
    with running("cricket", balls={"partitions": 4}, scores={}, lines={}) as application:
        for now in application.play(events, options.seconds, lambda: (scores, lines) == expected):
            scores.update({record.key: record.value for record in application.read("scores")})
            lines.update({record.key: record.value for record in application.read("lines")})
            counted = sum(row["balls"] for row in scores.values())
            figures = [("balls", f"{now.sent:,}"), ("in the scores", f"{counted:,}")]
            panels = draw(scores, lines)
            page.show(Snapshot(status="they play", progress=now.progress, figures=figures, panels=panels))
        is_right = (scores, lines) == expected
    end = "scores and lines are those of a plain loop" if is_right else "scores or lines are WRONG"
    page.show(Snapshot(status=f"stumps; {end}", progress=1, is_done=True, figures=figures, panels=panels))
    for innings, row in sorted(scores.items()):
        print(f"{innings:<12}{row['runs']:>4}/{row['wickets']} in {row['balls'] // 6}.{row['balls'] % 6} overs")
    print(f"{len(events):,} balls, {len(lines)} batters: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="cricket",
                doc=__doc__,
                title="Live cricket",
                about="Four simulated matches of twenty overs a side. Each line says what part of the runs of the innings "
                "is the batter's; a star: not out.",
                legend=[],
                seconds=60,
                make_app=make_app,
                play=play,
            )
        )
    )
