"""What type checkers know of an app: `key=` and `value=` say what functions are given (mypy reads this file, too)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from ottla.streams import App, col, count, tumbling
from ottla.streams.columns import ColumnStream
from ottla.streams.keys import Windowed
from ottla.streams.stream import Stream
from ottla.streams.table import Table


@dataclass
class Order:
    country: str
    amount: int


def test_functions_know_what_they_are_given() -> None:
    app = App("a")
    orders = app.stream("orders", key=str, value=Order)
    assert_type(orders, Stream[str, Order])
    assert_type(orders.filter(lambda key, order: order.amount > 1), Stream[str, Order])
    amounts = orders.map_values(lambda order: order.amount, value=int)
    assert_type(amounts, Stream[str, int])
    assert_type(orders.map_values(lambda key, order: key * order.amount, with_key=True), Stream[str, str])
    assert_type(orders.flat_map_values(lambda order: [order.country]), Stream[str, str])
    grouped = orders.group_by(lambda key, order: order.country, name="by-country")
    assert_type(grouped.count(store="counts"), Table[str, int])
    assert_type(grouped.windowed_by(tumbling("1m")).count(store="windows"), Table[Windowed, int])
    users = app.table("users", key=str, value=Order)
    assert_type(users.map_values(lambda user: user.country), Table[str, str])
    assert_type(app.stream("anything", value="json"), Stream[Any, Any])
    assert_type(app.stream("texts", key=str, value="json"), Stream[str, Any])


def test_columns_are_told_from_rows() -> None:
    ticks = App("a").stream("ticks", key=str, value=Order, columns=True)
    assert_type(ticks, ColumnStream)
    table = (
        ticks.group_by("country", name="by-country")
        .windowed_by(tumbling("1m"))
        .agg(col("amount").sum(), count(), store="s")
    )
    assert_type(table, Table[Windowed, dict[str, Any]])
