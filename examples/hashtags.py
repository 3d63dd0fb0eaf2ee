"""Trending hashtags: which tags were posted most in the last ten seconds, on a page that updates.

    python examples/hashtags.py                      # starts a broker of its own; open the address that it prints
    python examples/hashtags.py --seconds 20 --rate 500 --port 8000 --stay

The posts are simulated: no network was asked. Each has one or two of 40 tags, by Zipf's law (the second tag is half as
frequent as the first, the third a third as frequent, ...); in the middle third of the time every fourth post has
#eclipse as well, which nobody posts otherwise. A stream application, in a process of its own, finds the tags in the texts and
counts them in hopping windows of ten seconds that begin every two, and over all time, exactly once. At the end all counts
are compared with a plain loop over the topic of posts: the exit code is 0 if they are equal, 1 if not; 130 after Ctrl-C and
143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import sys
import time
from collections import Counter
from datetime import datetime
from typing import Any

from live_app import Application, Program, main, results, running
from live_page import Bar, LivePage, Panel, Snapshot

import ottla
from ottla.streams import App, hopping

NAMES = """music news football cooking travel books cats python garden coffee film art running science weather dogs chess
jazz cycling photo history poetry sailing maths birds bread theatre space climbing trains tea radio knitting rivers
rain bridges bees lego violin cheese"""
TAGS = [f"#{name}" for name in NAMES.split()]
ZIPF = list(itertools.accumulate(1 / rank for rank in range(1, len(TAGS) + 1)))
BURST = "#eclipse"
WORDS = [
    "look",
    "at",
    "this",
    "what",
    "a",
    "day",
    "more",
    "of",
    "it",
    "who",
    "else",
    "likes",
    "I",
    "never",
    "saw",
    "such",
]
#: ms of a window, and from the begin of one to that of the next.
SIZE_MS, ADVANCE_MS = 10_000, 2_000
TOP = 10
#: Stands for "over all time" where a window's begin stands otherwise.
EVER = -1


Counts = dict[tuple[int, str], int]


def hashtags(text: str) -> list[str]:
    """Return the tags of a text, each once.

    >>> hashtags("Rain again #Rain #tea #rain")
    ['#rain', '#tea']
    """
    return list(dict.fromkeys(tag.lower() for tag in re.findall(r"#\w+", text)))


def make_app(servers: str, state_dir: str) -> App:
    """Count the tags of the topic "posts" into the topic "trending"."""
    app = App(
        "hashtags",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="500ms",  # how often the page has news
    )
    posts = app.stream("posts", key=str, value="json")
    tags = posts.flat_map_values(lambda post: hashtags(post["text"]), value=str)
    by_tag = tags.group_by(lambda user, tag: tag, key=str, name="by-tag")
    # The posts of a tag come from all partitions, and an application that is behind may read all of one before it begins with
    # another. What it reads then is as late as it is behind, so the grace is more than that.
    size = hopping(f"{SIZE_MS}ms", advance=f"{ADVANCE_MS}ms", grace="1h")
    windows = by_tag.windowed_by(size).count(store="trending")
    windows.to_stream().map(lambda window, count: (window.key, {"start_ms": window.window.start, "count": count})).to(
        "trending", key=str, value="json"
    )
    ever = by_tag.count(store="ever").to_stream()
    ever.map_values(lambda count: {"start_ms": EVER, "count": count}).to("trending", key=str, value="json")
    return app


def windows_of(time_ms: int) -> range:
    """Return the begins of the windows that a moment is in."""
    newest = time_ms - time_ms % ADVANCE_MS
    return range(newest - SIZE_MS + ADVANCE_MS, newest + 1, ADVANCE_MS)


class Show:
    """What was posted and what was counted, and how the page shows it."""

    def __init__(self, page: LivePage, reader: ottla.Consumer[Any, Any]) -> None:
        self._page = page
        self._reader = reader
        self.posts = 0
        self.tags = 0
        self.progress = 0.0
        self.counts: Counts = {}

    def read(self, status: str) -> bool:
        """Take the counts that have come, and draw; whether there were any."""
        records = self._reader.poll(10_000, timeout=0.05)
        for record in records:
            self.counts[record.value["start_ms"], record.key or ""] = record.value["count"]
        self.draw(status)
        return bool(records)

    def counted(self) -> int:
        """How many tags are counted over all time."""
        return sum(count for (start, _), count in self.counts.items() if start == EVER)

    def all_counted(self) -> bool:
        """Whether each tag is counted once over all time, and once in each of its windows."""
        in_windows = sum(count for (start, _), count in self.counts.items() if start != EVER)
        return self.counted() == self.tags and in_windows == self.tags * (SIZE_MS // ADVANCE_MS)

    def draw(self, status: str, *, is_done: bool = False) -> None:
        """Send it to the page."""
        starts = {start for start, _ in self.counts if start != EVER}
        full = [start for start in starts if start + SIZE_MS <= time.time() * 1000]
        panels = []
        if starts:
            # The newest window that is over; before the first one is, the one that has most of what there is.
            start = max(full, default=min(starts))
            end = datetime.fromtimestamp((start + SIZE_MS) / 1000)
            panels.append(Panel(title=f"ten seconds until {end:%H:%M:%S}", bars=self._top(start, is_open=not full)))
            panels.append(Panel(title="since the beginning", bars=self._top(EVER, is_open=not is_done)))
        figures = [("posts", f"{self.posts:,}"), ("tags in them", f"{self.tags:,}"), ("counted", f"{self.counted():,}")]
        self._page.show(
            Snapshot(status=status, progress=self.progress, is_done=is_done, figures=figures, panels=panels)
        )

    def _top(self, start: int, *, is_open: bool) -> list[Bar]:
        return [
            Bar(label=tag, parts=[0, count] if tag == BURST else [count, 0], is_open=is_open)
            for tag, count in top(self.counts, start)
        ]


def top(counts: Counts, start: int) -> list[tuple[str, int]]:
    """Return the most frequent tags of a window, and how often they came."""
    found = [(tag, count) for (begin, tag), count in counts.items() if begin == start]
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:TOP]


def post(servers: str, options: argparse.Namespace, application: Application, show: Show) -> None:
    """Post for the time that was asked for, and keep the page new meanwhile."""
    dice = random.Random(options.seed)
    begun = time.monotonic()
    with ottla.Producer(servers, key_serializer=ottla.serde.string, value_serializer=ottla.serde.json()) as producer:
        while show.progress < 1:
            show.progress = min(1.0, (time.monotonic() - begun) / options.seconds)
            while show.posts < options.rate * options.seconds * show.progress:
                tags = set(dice.choices(TAGS, cum_weights=ZIPF, k=dice.randint(1, 2)))
                if 1 / 3 <= show.progress < 2 / 3 and dice.random() < 0.25:
                    tags.add(BURST)
                text = " ".join([*dice.choices(WORDS, k=5), *sorted(tags)])
                producer.send("posts", {"text": text}, key=f"user-{dice.randrange(1000)}")
                show.posts += 1
                show.tags += len(tags)
            application.check()
            show.read("people post")
        producer.flush()


def plain_loop(servers: str) -> Counts:
    """Count the tags of what lies in the topic, without any streams."""
    counts: Counter[tuple[int, str]] = Counter()
    with ottla.Consumer(
        servers, topics=["posts"], auto_offset_reset="earliest", value_deserializer=ottla.serde.json()
    ) as reader:
        for record in reader.records(until="end"):
            post: Any = record.value
            for tag in hashtags(post["text"]):
                counts.update((start, tag) for start in (EVER, *windows_of(record.timestamp_ms)))
    return dict(counts)


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Post, count, and compare; whether the counts are right."""
    settings = {"message.timestamp.type": "LogAppendTime"}  # windows are of the time at which posts arrive
    with (
        running("hashtags", posts={"partitions": 3, "configs": settings}, trending={"partitions": 1}) as application,
        results(application.servers, "trending") as reader,
    ):
        show = Show(page, reader)
        post(application.servers, options, application, show)
        application.wait_until(show.all_counted, lambda: show.read("the last posts are being counted"))
        is_right = show.all_counted() and show.counts == plain_loop(application.servers)
        end = "the counts are those of a plain loop over the posts" if is_right else "the counts are WRONG"
        show.draw(f"nobody posts any more; {end}", is_done=True)
    print(f"\n{'tag':<12}{'posts':>8}{'most in ten seconds':>22}")
    for tag, count in top(show.counts, EVER):
        most = max(number for (start, name), number in show.counts.items() if name == tag and start != EVER)
        print(f"{tag:<12}{count:>8,}{most:>22,}")
    windows = len({start for start, _ in show.counts} - {EVER})
    print(f"{show.posts:,} posts with {show.tags:,} tags, {windows} windows: {end}", flush=True)
    return is_right


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=200, help="posts a second (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="hashtags",
                doc=__doc__,
                title="Trending hashtags",
                about="Simulated posts, whose tags ottla.streams counts while they come. One tag bursts in the middle third "
                "of the time. Pale bars are counts that still grow.",
                legend=["posts with a tag", "posts with the tag that bursts"],
                seconds=60,
                make_app=make_app,
                play=play,
                add_options=add_options,
            )
        )
    )
