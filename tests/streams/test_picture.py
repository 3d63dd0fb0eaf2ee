"""A topology as SVG: every operator, topic and store is in it, boxes stand apart, edges lead down."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from itertools import pairwise

import pytest

from ottla.streams import App, tumbling
from ottla.streams.picture import _boxes, _layer, _place, svg


def busy() -> App:
    app = App("app", default_value="json")
    users = app.table("users", key=str, value="json", store="users")
    shops = app.global_table("shops", key=str, value="json")
    orders = app.stream("orders", key=str, value="json")
    priced = orders.join(users, lambda order, user: order).join(
        shops, lambda order, shop: order, key=lambda key, _: key
    )
    by_city = priced.group_by(lambda key, order: order["city"], name="by-city")
    by_city.windowed_by(tumbling("1m")).count(store="counts").to_stream().to("counts")
    by_city.count(store="ever").to_stream().to("ever")
    branches = orders.split().branch(lambda key, order: True).default_branch()
    for number, branch in enumerate(branches.values()):
        branch.to(f"branch-{number}")
    return app


def looping() -> App:
    """It reads what it writes."""
    app = App("app")
    app.stream("a").merge(app.stream("b")).to("a")
    return app


def of_functions() -> App:
    """It does not know where it writes."""
    app = App("app")
    app.stream("a").to(lambda key, value, record: "b")
    return app


@pytest.mark.parametrize("make", [busy, looping, of_functions])
def test_everything_is_in_the_picture(make: Callable[[], App]) -> None:
    topology = make().topology()
    root = ET.fromstring(svg(topology))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    for sub in topology.sub_topologies:
        assert set(sub.nodes) <= texts
        assert set(sub.source_topics) <= texts
        assert {f"store {spec.name}" for spec in sub.stores if not spec.name.startswith("$")} <= texts


@pytest.mark.parametrize("make", [busy, looping, of_functions])
def test_boxes_stand_apart_and_edges_lead_down(make: Callable[[], App]) -> None:
    boxes = _boxes(make().topology())
    _layer(boxes)
    width, height = _place(boxes)
    for layer in {box.layer for box in boxes.values()}:
        row = sorted((box for box in boxes.values() if box.layer == layer), key=lambda box: box.x)
        assert row[0].x >= row[0].width / 2
        assert all(one.x + one.width / 2 < other.x - other.width / 2 for one, other in pairwise(row))
        assert row[-1].x + row[-1].width / 2 <= width
    assert max(box.y + box.height for box in boxes.values()) <= height
    back = [(box, name) for box in boxes.values() for name in box.below if boxes[name].layer <= box.layer]
    assert len(back) == (1 if make is looping else 0)


def test_names_are_text() -> None:
    app = App("app")
    app.stream("a").filter(lambda key, value: True, name='<script>"&').to("b")
    drawn = svg(app.topology())
    assert not re.search(r"<script", drawn)
    assert "&lt;script&gt;" in drawn
