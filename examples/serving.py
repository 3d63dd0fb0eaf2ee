"""A model served over HTTP that learns from what becomes of its predictions.

    python examples/serving.py                       # starts a broker of its own; open the address that it prints
    python examples/serving.py --seconds 20 --port 8000 --stay

The model (logistic regression, of river) says of a web site how likely it is to be a trap: the 1,250 sites are real, the data
set Phishing of the same package. It knows nothing at first. A visitor asks about a site over HTTP; what the site really was
turns out some seconds later for four of five, by simulated reports, and for the others never:

    POST /predict -> predictions          each answer, before it is given
    reports -> outcomes                   what the site was
    predictions + outcomes -> feedback    joined by Streams, exactly once; None as outcome if none came in time
    feedback -> the model                 it learns from each outcome once

The model is kept nowhere: it is what the topic "feedback" makes of an empty one, so a server that begins reads that topic
first. In the middle the server is ended, and another one started. At the end a model that learns from the topic in a plain
loop must say of every site just what the served one says: the exit code is 0 then, else 1.

Needs: pip install ottla[examples].
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from live_app import Application, Program, main, results, running
from live_page import Bar, LivePage, Panel, Snapshot

import ottla
from ottla.streams import App

SITES = 1250
GROUP = 100  # sites of a bar on the page
NAMES = {True: "a trap", False: "harmless"}
Row = dict[str, Any]


def make_app(servers: str, state_dir: str) -> App:
    """Join "predictions" with "outcomes" into "feedback"."""
    app = App(
        "serving", servers, processing_guarantee="exactly_once_v2", state_dir=state_dir, commit_interval_ms="200ms"
    )
    predictions = app.stream("predictions", key=str, value="json")
    outcomes = app.stream("outcomes", key=str, value="json")
    # A prediction that finds no outcome within 10 seconds goes on without one, 5 more or a sweep later.
    feedback = predictions.left_join(outcomes, with_outcome, within="10s", grace="5s", store="waiting")
    feedback.to("feedback", key=str, value="json")
    return app


def with_outcome(prediction: Row, outcome: Row | None) -> Row:
    """Return a prediction and what became of it."""
    return {**prediction, "outcome": None if outcome is None else outcome["trap"]}


def new_model() -> Any:
    """Return a model that knows nothing."""
    from river import linear_model, preprocessing

    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def probability(model: Any, features: Row) -> float:
    """Return how likely a site is a trap, 0 to 1."""
    return float(model.predict_proba_one(features).get(True, 0.5))


def learn(model: Any, feedback: Row) -> None:
    """Learn from an outcome, if there is one."""
    if feedback["outcome"] is not None:
        model.learn_one(feedback["features"], feedback["outcome"])


def read_question(body: bytes) -> tuple[str, Row]:
    """Return site and features of a question.

    Raises:
        ValueError: it is none.
    """
    match json.loads(body, parse_int=float):
        case {"site": str(site), "features": dict(features)} if all(
            isinstance(value, int | float) and math.isfinite(value) for value in features.values()
        ):
            return site, features
    raise ValueError('a question is {"site": "text", "features": {"long_url": 1.0, ...}}, with finite numbers')


class Server:
    """The model, at an address. It begins with what "feedback" holds; `learn` takes what has come since."""

    def __init__(self, servers: str) -> None:
        self._model = new_model()
        self._lock = threading.Lock()  # a request does not see a model that is half way through learning
        self._producer = ottla.Producer(
            servers, key_serializer=ottla.serde.string, value_serializer=ottla.serde.json(), linger_ms=0
        )
        self._reader = results(servers, "feedback")
        self.seen = 0
        for record in self._reader.records(until="end"):
            self._take(record.value)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_POST(self) -> None:
                try:
                    site, features = read_question(self.rfile.read(int(self.headers["Content-Length"] or 0)))
                except ValueError as error:
                    self.send_error(400, str(error))
                    return
                answer = owner.predict(site, features)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/predict"
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def predict(self, site: str, features: Row) -> Row:
        """Say how likely a site is a trap; the answer is on record when this returns."""
        answer = {"features": features, "probability": self.probability(features)}
        self._producer.send_and_wait("predictions", answer, key=site)
        return answer

    def probability(self, features: Row) -> float:
        """Return how likely it is, from 0 to 1."""
        with self._lock:
            return probability(self._model, features)

    def learn(self) -> None:
        """Learn from the feedback that has come."""
        for record in self._reader.poll(1000, timeout=0.02):
            self._take(record.value)

    def _take(self, feedback: Row) -> None:
        with self._lock:
            learn(self._model, feedback)
        self.seen += 1

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._reader.close()
        self._producer.close()


def ask(address: str, site: str, features: Row) -> Row:
    """Ask the server as any program would."""
    question = urllib.request.Request(address, json.dumps({"site": site, "features": features}).encode())
    with urllib.request.urlopen(question, timeout=60) as answer:
        found: Row = json.load(answer)
        return found


def panels_of(judged: list[Row]) -> list[Panel]:
    """Return how often the predictions were right, in the order of their outcomes, and what was said of what."""
    hits = [(row["probability"] > 0.5) == row["outcome"] for row in judged]
    bars = []
    for start in range(0, len(hits), GROUP):
        group = hits[start : start + GROUP]
        label = f"{start + 1} to {start + len(group)}"
        bars.append(Bar(label=label, parts=[sum(group), len(group) - sum(group)], is_open=len(group) < GROUP))
    counts = Counter((row["outcome"], row["probability"] > 0.5) for row in judged)
    rows = [[f"was {NAMES[was]}", *(str(counts[was, said]) for said in NAMES)] for was in NAMES]
    return [
        Panel(title="predictions by their outcomes", bars=bars),
        Panel(title="all", head=["", *(f"said {name}" for name in NAMES.values())], rows=rows),
    ]


class Show:
    """What has happened, and how the page shows it."""

    def __init__(self, page: LivePage, application: Application) -> None:
        self._page = page
        self._application = application
        self.server = Server(application.servers)
        self.asked = self.reported = 0
        self.feedback: list[Row] = []

    def draw(self, status: str, *, is_done: bool = False) -> bool:
        """Let the model learn, take the feedback that has come, and draw; whether there was any."""
        self.server.learn()
        news = [record.value for record in self._application.read("feedback", timeout=0.02)]
        self.feedback += news
        judged = [row for row in self.feedback if row["outcome"] is not None]
        right = sum((row["probability"] > 0.5) == row["outcome"] for row in judged)
        figures = [
            ("asked", f"{self.asked:,}"),
            ("learned from", f"{len(judged):,}"),
            ("no outcome in time", f"{len(self.feedback) - len(judged):,}"),
            ("right", f"{right / len(judged):.1%}" if judged else "-"),
        ]
        progress = self.asked / SITES
        panels = panels_of(judged)
        self._page.show(Snapshot(status=status, progress=progress, is_done=is_done, figures=figures, panels=panels))
        return bool(news)

    def is_complete(self) -> bool:
        """Whether all outcomes have become feedback, and the model has seen it."""
        outcomes = sum(row["outcome"] is not None for row in self.feedback)
        return outcomes == self.reported and self.server.seen == len(self.feedback)


def visit(application: Application, show: Show, options: argparse.Namespace) -> None:
    """Ask about all sites, and report what they were; end the server in the middle, and start another."""
    from river import datasets

    dice = random.Random(options.seed)
    reports: list[tuple[float, int, bool]] = []  # when, about which site, what it was
    begun = time.monotonic()
    with ottla.Producer(application.servers) as producer:
        sites = enumerate(datasets.Phishing())
        while show.asked < SITES or reports:
            application.check()
            elapsed = time.monotonic() - begun
            due = min(
                SITES, show.asked + 20, int(SITES * elapsed / options.seconds) + 1
            )  # 20: reports must not wait long
            for number, (features, trap) in itertools.islice(sites, due - show.asked):
                ask(show.server.address, str(number), features)
                show.asked += 1
                if dice.random() < 0.8:
                    heapq.heappush(reports, (elapsed + dice.uniform(0.5, 3), number, trap))
                if show.asked == SITES // 2:
                    show.server.close()
                    show.server = Server(application.servers)
            while reports and reports[0][0] <= elapsed:
                _, number, trap = heapq.heappop(reports)
                producer.send("outcomes", json.dumps({"trap": trap}), key=str(number))
                show.reported += 1
            show.draw("visitors ask")


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Serve, and compare the model with one that learns in a plain loop."""
    from river import datasets

    stamped = {"partitions": 3}
    with running("serving", predictions=stamped, outcomes=stamped, feedback={"partitions": 1}) as application:
        show = Show(page, application)
        try:
            visit(application, show, options)
            application.wait_until(show.is_complete, lambda: show.draw("the last outcomes come"))
            model = new_model()
            for feedback in show.feedback:
                learn(model, feedback)
            same = all(show.server.probability(site) == probability(model, site) for site, _ in datasets.Phishing())
            is_right = show.is_complete() and same
            end = "a plain loop over the feedback makes the same model" if is_right else "the model is WRONG"
            show.draw(end, is_done=True)
        finally:
            show.server.close()
    print(f"{show.asked:,} sites, {show.reported:,} outcomes: {end}", flush=True)
    return is_right


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="serving",
                doc=__doc__,
                title="A model that learns from its predictions",
                about="Real web sites, traps or not. A model answers over HTTP; what each site was turns out later, "
                "and the model learns from it.",
                legend=["right", "wrong"],
                seconds=60,
                make_app=make_app,
                play=play,
            )
        )
    )
