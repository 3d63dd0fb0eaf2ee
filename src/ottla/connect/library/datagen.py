"""DatagenSource: made-up orders, always the same for a seed, to try things with."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from ottla.connect.config_def import NOT_EMPTY, ConfigDef, ConfigKey, ConfigType, Importance, at_least
from ottla.connect.connectors import SourceConnector, SourceTask
from ottla.connect.logical import TIMESTAMP, decimal_from, decimal_schema, ms_to_timestamp
from ottla.connect.records import SourceRecord
from ottla.connect.schema import INT32, INT64, STRING, Schema, Struct

ORDER = Schema.struct(
    {"id": INT64, "customer": STRING, "item": STRING, "count": INT32, "price": decimal_schema(2), "at": TIMESTAMP},
    name="order",
)
_ITEMS = ("pen", "lamp", "chair", "desk", "cup", "book")
_START_MS = 1_700_000_000_000


def order(seed: int, number: int) -> Struct:
    """Return one order: it depends on the seed and its number alone."""
    dice = random.Random(f"{seed}/{number}")
    return Struct(
        ORDER,
        id=number,
        customer=f"customer-{dice.randrange(100):02d}",
        item=dice.choice(_ITEMS),
        count=dice.randrange(1, 10),
        price=decimal_from(dice.randrange(100, 100_000), 2),
        at=ms_to_timestamp(_START_MS + number * 1000 + dice.randrange(1000)),
    )


class DatagenTask(SourceTask):
    """Makes orders, at a pace."""

    def start(self) -> None:
        kept = self.context.offset({"datagen": self.values["topic"]})
        self._next = 0 if kept is None else int(kept["number"]) + 1
        self._first, self._began = self._next, time.monotonic()

    def preview(self, rows: int) -> Sequence[SourceRecord]:
        return self.first_rows(rows)

    def poll(self) -> Sequence[SourceRecord] | None:
        rate, most = self.values["rows.per.second"], self.values["rows.max"]
        due = self._first + int((time.monotonic() - self._began) * rate) + 1
        end = min(due, self._next + 500, most if most >= 0 else due)
        if self._next >= end:
            self.context.wait(min(1.0, 1 / rate) if most < 0 or self._next < most else 1.0)
            return None
        records = [self._record(number) for number in range(self._next, end)]
        self._next = end
        return records

    def _record(self, number: int) -> SourceRecord:
        return SourceRecord(
            topic=self.values["topic"],
            key_schema=INT64,
            key=number,
            value_schema=ORDER,
            value=order(self.values["seed"], number),
            source_partition={"datagen": self.values["topic"]},
            source_offset={"number": number},
        )


class DatagenSource(SourceConnector):
    """Made-up orders."""

    CONFIG = ConfigDef(
        ConfigKey(name="topic", validator=NOT_EMPTY, importance=Importance.HIGH, documentation="The topic."),
        ConfigKey(
            name="rows.per.second",
            type=ConfigType.DOUBLE,
            default=10.0,
            validator=at_least(0.001),
            documentation="The pace.",
        ),
        ConfigKey(
            name="rows.max",
            type=ConfigType.LONG,
            default=-1,
            documentation="How many there are in all; -1: they never end.",
        ),
        ConfigKey(name="seed", type=ConfigType.LONG, default=1, documentation="Another seed, other orders."),
    )
    Task = DatagenTask

    def exactly_once_support(self) -> bool:
        return True
