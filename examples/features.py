"""Readings of a sensor become features, features become training data, and a model learns from them while they come.

    python examples/features.py                      # starts a broker of its own; open the address that it prints
    python examples/features.py --seconds 10 --port 8000 --stay

A producer sends the hourly flow of a water pipeline (1,268 readings of the spring of 2022, the data set WaterFlow of the
package river; some hours are missing) to the topic raw_data, made faster. A stream application, in a process of its
own, makes exactly once:

    raw_data -> transformed_data     the reading as numbers: flow, hour of the day
    transformed_data -> training_data     for each hour what the 24 hours before it were like, and whether its flow was higher

The second is a hopping window of 25 hours that begins every hour: when it closes, its last reading is what is to be
forecast, the others are the features. A window with missing hours makes no row. A model (logistic regression, of river)
forecasts for each row whether the flow rises, before it learns from the row. At the end the rows are compared with a plain
loop over raw_data: the exit code is 0 if they are equal, 1 if not; 130 after Ctrl-C and 143 after SIGTERM.

Needs: pip install ottla[examples].
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from datetime import datetime
from typing import Any

from live_app import Application, Program, main, results, running
from live_page import Bar, LivePage, Panel, Snapshot

import ottla
from ottla.streams import App, hopping

HOUR_MS = 3_600_000
#: The hours that features are made of.
DAY = 24
#: Forecasts of a bar on the page and of a line of the table.
GROUP = 100


Row = dict[str, Any]


def transform(reading: dict[str, Any]) -> dict[str, Any]:
    """Return a reading as a model wants it."""
    at = datetime.fromisoformat(reading["time"])
    return {"time_ms": int(at.timestamp() * 1000), "hour": at.hour, "flow": float(reading["litres_per_second"])}


def collect(sensor: str, reading: dict[str, Any], readings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the readings of a window with one more."""
    return [*readings, reading]


def training_row(readings: list[dict[str, Any]]) -> Row:
    """Return the features of all readings but the last, and whether that one is higher than the one before it."""
    *day, last = readings
    flows = [reading["flow"] for reading in day]
    newest = flows[-1]
    angle = 2 * math.pi * last["hour"] / DAY
    return {
        "time_ms": last["time_ms"],
        "rises": last["flow"] > newest,
        "features": {
            "change": newest - flows[-2],
            "change_before": flows[-2] - flows[-3],
            "change_a_day_ago": flows[1] - flows[0],
            "above_a_day_ago": newest - flows[0],
            "above_mean": newest - sum(flows) / len(flows),
            "above_least": newest - min(flows),
            "below_most": max(flows) - newest,
            "hour_sin": math.sin(angle),
            "hour_cos": math.cos(angle),
            "half_day_sin": math.sin(2 * angle),
            "half_day_cos": math.cos(2 * angle),
        },
    }


def make_app(servers: str, state_dir: str) -> App:
    """Make "transformed_data" of "raw_data", and "training_data" of that."""
    app = App(
        "features",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="500ms",  # how often the page has news
        config={"topic.retention.ms": -1},  # the readings are old
    )
    raw = app.stream("raw_data", key=str, value="json")
    transformed = raw.map_values(transform, value="json").through("transformed_data")
    windows = transformed.group_by_key().windowed_by(hopping(f"{DAY + 1}h", advance="1h"))
    days = windows.aggregate(list, collect, store="days").suppress("until_window_closes").to_stream()
    whole = days.filter(lambda window, readings: len(readings) == DAY + 1)
    whole.map(lambda window, readings: (window.key, training_row(readings))).to("training_data", key=str, value="json")
    return app


class Learner:
    """The model, and how often it and the simplest forecast (the flow goes on as in the hour before) were right."""

    def __init__(self) -> None:
        from river import linear_model, preprocessing

        self._model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        self.right: list[bool] = []
        self.simple_right: list[bool] = []

    def take(self, row: Row) -> None:
        """Forecast, then learn."""
        features, rises = row["features"], row["rises"]
        self.right.append(self._model.predict_one(features) == rises)
        self.simple_right.append((features["change"] > 0) == rises)
        self._model.learn_one(features, rises)


class Show:
    """What was sent and what came out, and how the page shows it."""

    def __init__(self, page: LivePage, reader: ottla.Consumer[Any, Any]) -> None:
        self._page = page
        self._reader = reader
        self.learner = Learner()
        self.sent: list[int] = []  # times in ms
        self.progress = 0.0
        self.rows: list[Row] = []

    def read(self, status: str) -> bool:
        """Learn from the rows that have come, and draw; whether there were any."""
        records = self._reader.poll(10_000, timeout=0.05)
        for record in records:
            self.rows.append(record.value)
            self.learner.take(record.value)
        self.draw(status)
        return bool(records)

    def has_all(self) -> bool:
        """Whether there is a row for each whole window that has closed."""
        return len(self.rows) >= sum(is_whole(self.sent[last - DAY : last + 1]) for last in ends(len(self.sent)))

    def draw(self, status: str, *, is_done: bool = False) -> None:
        """Send it to the page."""
        learner = self.learner
        figures = [("readings sent", f"{len(self.sent):,}"), ("rows learned from", f"{len(self.rows):,}")]
        panels = []
        if self.rows:
            figures.append(("right, all in all", f"{share(learner.right):.1%}"))
            panels = [
                Panel(title=f"right of {GROUP} forecasts: the model", bars=bars(learner.right, 0, is_done), full=GROUP),
                Panel(
                    title="right if it goes on as in the hour before",
                    bars=bars(learner.simple_right, 1, is_done),
                    full=GROUP,
                ),
            ]
        self._page.show(
            Snapshot(status=status, progress=self.progress, is_done=is_done, figures=figures, panels=panels)
        )


def ends(readings: int) -> range:
    """Return the places of readings with a day before them, but the last: its window is still open."""
    return range(DAY, readings - 1)


def is_whole(times: list[int]) -> bool:
    """Whether no hour is missing between the first and the last of 25 readings."""
    return times[-1] - times[0] == DAY * HOUR_MS


def share(right: list[bool]) -> float:
    """Return the share of what was right."""
    return sum(right) / len(right)


def bars(right: list[bool], place: int, is_done: bool) -> list[Bar]:
    """Return a bar for each group of forecasts, of the legend's color `place`."""
    made = []
    for first in range(0, len(right), GROUP):
        group = right[first : first + GROUP]
        parts = [0, 0]
        parts[place] = sum(group)
        label = f"{first + 1}-{first + len(group)}"
        made.append(Bar(label=label, parts=parts, is_open=not is_done and len(group) < GROUP))
    return made


def send(servers: str, seconds: float, application: Application, show: Show) -> None:
    """Send the readings within `seconds`, and keep the page new meanwhile."""
    from river import datasets

    readings = [(features["Time"], flow) for features, flow in datasets.WaterFlow()]
    begun = time.monotonic()
    with ottla.Producer(servers, key_serializer=ottla.serde.string, value_serializer=ottla.serde.json()) as producer:
        while show.progress < 1:
            show.progress = min(1.0, (time.monotonic() - begun) / seconds)
            for at, flow in readings[len(show.sent) : round(len(readings) * show.progress)]:
                reading = {"time": at.isoformat(), "litres_per_second": flow}
                producer.send("raw_data", reading, key="pipeline", timestamp=at)
                show.sent.append(int(at.timestamp() * 1000))
            application.check()
            show.read("the sensor sends")
        producer.flush()


def plain_loop(servers: str) -> list[Row]:
    """Make the training data of what lies in raw_data, without any streams."""
    with ottla.Consumer(
        servers, topics=["raw_data"], auto_offset_reset="earliest", value_deserializer=ottla.serde.json()
    ) as reader:
        readings = [transform(dict(record.value or {})) for record in reader.records(until="end")]
    windows = [readings[last - DAY : last + 1] for last in ends(len(readings))]
    return [training_row(window) for window in windows if is_whole([reading["time_ms"] for reading in window])]


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Send, learn, and compare; whether the training data are right."""
    settings = {"partitions": 1, "configs": {"retention.ms": -1}}  # they are old
    with (
        running("features", raw_data=settings, transformed_data=settings, training_data=settings) as application,
        results(application.servers, "training_data") as reader,
    ):
        show = Show(page, reader)
        send(application.servers, options.seconds, application, show)
        application.wait_until(show.has_all, lambda: show.read("the last readings become features"))
        is_right = show.rows == plain_loop(application.servers)
        end = "the rows are those of a plain loop over raw_data" if is_right else "the rows are WRONG"
        show.draw(f"the sensor is silent; {end}", is_done=True)
    learner = show.learner
    print(f"\n{'forecasts':<12}{'right: model':>14}{'as the hour before':>20}")
    groups = [slice(first, first + GROUP) for first in range(0, len(show.rows), GROUP)]
    for group in groups:
        mine, simple = learner.right[group], learner.simple_right[group]
        label = f"{group.start + 1}-{group.start + len(mine)}"
        print(f"{label:<12}{share(mine):>14.1%}{share(simple):>20.1%}")
    if show.rows:
        print(f"{'all':<12}{share(learner.right):>14.1%}{share(learner.simple_right):>20.1%}")
    print(f"{len(show.sent):,} readings, {len(show.rows):,} rows of training data: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="features",
                doc=__doc__,
                title="From readings to a model",
                about="The hourly flow of a water pipeline, made into windowed features by ottla.streams. A model forecasts "
                "from 24 hours whether the next one has more flow, then learns what it was.",
                legend=["the model", "as in the hour before"],
                seconds=30,
                make_app=make_app,
                play=play,
            )
        )
    )
