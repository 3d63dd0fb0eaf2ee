"""A stock exchange's dashboard: candles of a few seconds (open, high, low, close, volume) on a page that updates.

    python examples/exchange.py                      # starts a broker of its own; open the address that it prints
    python examples/exchange.py --seconds 20 --rate 500 --port 8000 --stay

The trades are simulated, and so are the companies: each price is a random walk, whose steps are normally distributed (a
twentieth of a percent), numbers of shares are log-normal. No market was asked. A stream application, in a process of its
own, makes candles by symbol in tumbling windows of three seconds, exactly once. At the end all candles are compared with a
plain loop over the topic of trades: the exit code is 0 if they are equal, 1 if not; 130 after Ctrl-C and 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from live_app import Application, Program, main, results, running
from live_page import Candle, LivePage, Panel, Snapshot

import ottla
from ottla.streams import App, tumbling

#: Symbols, and their first prices in cents.
SYMBOLS = {"ACORN": 12_000, "BIRCH": 4_250, "CEDAR": 31_900, "DATURA": 880}
SIZE_MS = 3_000
#: So many candles of a symbol are on the page.
SHOWN = 24


Candles = dict[tuple[str, int], dict[str, Any]]


@dataclass
class Trade:
    """Shares that changed hands, at a price in cents for one."""

    price: int
    shares: int


def with_trade(symbol: str, trade: Trade, candle: dict[str, Any]) -> dict[str, Any]:
    """Return the candle with one more trade."""
    if not candle:
        candle = {"open": trade.price, "high": trade.price, "low": trade.price, "volume": 0, "trades": 0}
    return {
        "open": candle["open"],
        "high": max(candle["high"], trade.price),
        "low": min(candle["low"], trade.price),
        "close": trade.price,
        "volume": candle["volume"] + trade.shares,
        "trades": candle["trades"] + 1,
    }


def make_app(servers: str, state_dir: str) -> App:
    """Make candles of the topic "trades" into the topic "candles"."""
    app = App(
        "exchange",
        servers,
        processing_guarantee="exactly_once_v2",
        state_dir=state_dir,
        commit_interval_ms="500ms",  # how often the page has news
    )
    # Trades of a symbol are in one partition, in their order, so the first of a window opens it and the last closes it.
    trades = app.stream("trades", key=str, value=Trade).group_by_key()
    candles = trades.windowed_by(tumbling(f"{SIZE_MS}ms", grace="10s")).aggregate(dict, with_trade, store="candles")
    candles.to_stream().map(lambda window, candle: (window.key, {"start_ms": window.window.start, **candle})).to(
        "candles", key=str, value="json"
    )
    return app


class Show:
    """What was traded and what the candles hold, and how the page shows it."""

    def __init__(self, page: LivePage, reader: ottla.Consumer[Any, Any]) -> None:
        self._page = page
        self._reader = reader
        self.trades = 0
        self.shares = 0
        self.progress = 0.0
        self.candles: Candles = {}

    def read(self, status: str) -> bool:
        """Take the candles that have come, and draw; whether there were any."""
        records = self._reader.poll(10_000, timeout=0.05)
        for record in records:
            candle = dict(record.value)
            self.candles[record.key or "", candle.pop("start_ms")] = candle
        self.draw(status)
        return bool(records)

    def sum(self, name: str) -> int:
        """The sum of a field over all candles."""
        return sum(candle[name] for candle in self.candles.values())

    def has_all(self) -> bool:
        """Whether the candles have all trades and shares."""
        return self.sum("trades") == self.trades and self.sum("volume") == self.shares

    def of(self, symbol: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the candles of a symbol by their begins."""
        return sorted((start, candle) for (name, start), candle in self.candles.items() if name == symbol)

    def draw(self, status: str, *, is_done: bool = False) -> None:
        """Send it to the page."""
        now_ms = time.time() * 1000
        panels = []
        for symbol in SYMBOLS:
            if not (found := self.of(symbol)[-SHOWN:]):
                continue
            candles = [
                Candle(
                    label=f"{datetime.fromtimestamp(start / 1000):%H:%M:%S}",
                    open=candle["open"] / 100,
                    high=candle["high"] / 100,
                    low=candle["low"] / 100,
                    close=candle["close"] / 100,
                    volume=candle["volume"],
                    is_open=not is_done and now_ms < start + SIZE_MS,
                )
                for start, candle in found
            ]
            panels.append(Panel(title=f"{symbol} {candles[-1].close:,.2f}", candles=candles))
        figures = [
            ("trades", f"{self.trades:,}"),
            ("in candles", f"{self.sum('trades'):,}"),
            ("shares in candles", f"{self.sum('volume'):,}"),
        ]
        self._page.show(
            Snapshot(status=status, progress=self.progress, is_done=is_done, figures=figures, panels=panels)
        )


def trade(servers: str, options: argparse.Namespace, application: Application, show: Show) -> None:
    """Trade for the time that was asked for, and keep the page new meanwhile."""
    dice = random.Random(options.seed)
    prices: dict[str, float] = {symbol: float(price) for symbol, price in SYMBOLS.items()}
    begun = time.monotonic()
    with ottla.Producer(servers, key_serializer=ottla.serde.string, value_serializer=ottla.serde.json()) as producer:
        while show.progress < 1:
            show.progress = min(1.0, (time.monotonic() - begun) / options.seconds)
            while show.trades < options.rate * options.seconds * show.progress:
                symbol = dice.choice(list(SYMBOLS))
                prices[symbol] *= 1 + dice.gauss(0, 0.0005)
                shares = 1 + int(dice.lognormvariate(3, 1))
                producer.send("trades", {"price": max(1, round(prices[symbol])), "shares": shares}, key=symbol)
                show.trades += 1
                show.shares += shares
            application.check()
            show.read("the exchange is open")
        producer.flush()


def plain_loop(servers: str) -> Candles:
    """Make the candles of what lies in the topic, without any streams."""
    candles: Candles = {}
    with ottla.Consumer(
        servers,
        topics=["trades"],
        auto_offset_reset="earliest",
        key_deserializer=ottla.serde.string,
        value_deserializer=ottla.serde.json(),
    ) as reader:
        for record in reader.records(until="end"):
            row: Any = record.value
            price, shares = row["price"], row["shares"]
            place = (record.key or "", record.timestamp_ms - record.timestamp_ms % SIZE_MS)
            if place not in candles:
                candles[place] = {"open": price, "high": price, "low": price, "close": price, "volume": 0, "trades": 0}
            candle = candles[place]
            candle["high"] = max(candle["high"], price)
            candle["low"] = min(candle["low"], price)
            candle["close"] = price
            candle["volume"] += shares
            candle["trades"] += 1
    return candles


def play(page: LivePage, options: argparse.Namespace) -> bool:
    """Trade, make candles, and compare; whether the candles are right."""
    settings = {"message.timestamp.type": "LogAppendTime"}  # windows are of the time at which trades arrive
    with (
        running("exchange", trades={"partitions": 2, "configs": settings}, candles={"partitions": 1}) as application,
        results(application.servers, "candles") as reader,
    ):
        show = Show(page, reader)
        trade(application.servers, options, application, show)
        application.wait_until(show.has_all, lambda: show.read("the last trades go into candles"))
        is_right = show.has_all() and show.candles == plain_loop(application.servers)
        end = "the candles are those of a plain loop over the trades" if is_right else "the candles are WRONG"
        show.draw(f"the exchange is closed; {end}", is_done=True)
    print(f"\n{'symbol':<8}{'candles':>8}{'trades':>9}{'shares':>10}{'open':>10}{'high':>10}{'low':>10}{'close':>10}")
    for symbol in SYMBOLS:
        if found := [candle for _, candle in show.of(symbol)]:
            trades, shares = (sum(candle[name] for candle in found) for name in ("trades", "volume"))
            high, low = max(candle["high"] for candle in found), min(candle["low"] for candle in found)
            ends = [found[0]["open"], high, low, found[-1]["close"]]
            prices = "".join(f"{cents / 100:>10,.2f}" for cents in ends)
            print(f"{symbol:<8}{len(found):>8}{trades:>9,}{shares:>10,}{prices}")
    print(f"{show.trades:,} trades of {show.shares:,} shares, {len(show.candles)} candles: {end}", flush=True)
    return is_right


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=200, help="trades a second (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(
        main(
            Program(
                name="exchange",
                doc=__doc__,
                title="A stock exchange",
                about="Simulated trades of companies that do not exist, made into candles of three seconds by ottla.streams "
                "while they come: open, high, low, close, and below them the volume. Pale candles still grow.",
                legend=["closed higher than it opened, or equal", "closed lower"],
                seconds=90,
                make_app=make_app,
                play=play,
                add_options=add_options,
            )
        )
    )
