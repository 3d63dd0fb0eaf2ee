"""A topology as a picture: topics and operators in layers from top to bottom, as SVG without scripts or fonts of its own.

A box stands one layer below the lowest of those before it, in its layer near the middle of them. Edges that lead back (an app
that reads what it writes) do not move boxes. Each sub-topology has a colour.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

from ottla.streams.topology import ProcessorNode, SinkNode, SourceNode, Topology

_LINE, _GAP, _LAYER, _MARGIN = 15, 18, 44, 12
#: Of one letter, in a wide font: nobody knows which one there is.
_CAPITAL, _LETTER = 8.7, 7.5
_COLOURS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#cffafe", "#ffedd5", "#e5e7eb")


@dataclass(slots=True)
class _Box:
    """Something that is drawn: its lines of text, what it leads to, and its place (x is the middle)."""

    lines: list[str]
    colour: str
    is_topic: bool = False
    below: list[str] = field(default_factory=list)
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        return 16 + max(sum(_CAPITAL if each.isupper() else _LETTER for each in line) for line in self.lines)

    @property
    def height(self) -> float:
        return len(self.lines) * _LINE + 12


def svg(topology: Topology) -> str:
    """Return the picture of a topology."""
    boxes = _boxes(topology)
    _layer(boxes)
    width, height = _place(boxes)
    drawn = [_edge(box, boxes[name]) for box in boxes.values() for name in box.below]
    drawn += [_drawn(box) for box in boxes.values()]
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#64748b"/></marker></defs>\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{"".join(drawn)}</svg>\n'
    )


def _boxes(topology: Topology) -> dict[str, _Box]:
    """Return what is drawn, by "n " and the name of a node or "t " and the name of a topic."""
    boxes: dict[str, _Box] = {}

    def topic(name: str) -> str:
        boxes.setdefault(f"t {name}", _Box([name], "#ffffff", is_topic=True))
        return f"t {name}"

    for number, sub in enumerate(topology.sub_topologies):
        colour = _COLOURS[number % len(_COLOURS)]
        for name, node in sub.nodes.items():
            box = boxes[f"n {name}"] = _Box([name], colour, below=[f"n {child}" for child in node.children])
            if isinstance(node, ProcessorNode):
                box.lines += [f"store {store}" for store in node.stores]
            if isinstance(node, SourceNode):
                box.lines.append("global table" if sub.is_global else f"sub-topology {sub.id}")
                for found in node.topics:
                    boxes[topic(found)].below.append(f"n {name}")
            if isinstance(node, SinkNode) and isinstance(node.topic, str):
                box.below.append(topic(node.topic))
    return boxes


def _layer(boxes: Mapping[str, _Box]) -> None:
    """Give each box the layer below all that lead to it, edges that lead back left out."""
    ended: list[str] = []
    open_names: set[str] = set()
    back: set[tuple[str, str]] = set()

    def visit(first: str) -> None:
        # Without recursion: a chain of operators may be long.
        waiting = [(first, iter(boxes[first].below))]
        open_names.add(first)
        while waiting:
            name, below = waiting[-1]
            for other in below:
                if other in open_names:
                    back.add((name, other))
                elif other not in ended_names:
                    open_names.add(other)
                    waiting.append((other, iter(boxes[other].below)))
                    break
            else:
                waiting.pop()
                open_names.discard(name)
                ended_names.add(name)
                ended.append(name)

    ended_names: set[str] = set()
    for name in boxes:
        if name not in ended_names:
            visit(name)
    for name in reversed(ended):
        for other in boxes[name].below:
            if (name, other) not in back:
                boxes[other].layer = max(boxes[other].layer, boxes[name].layer + 1)


def _place(boxes: Mapping[str, _Box]) -> tuple[float, float]:
    """Give each box its place; return the size of the picture."""
    above: dict[str, list[_Box]] = {name: [] for name in boxes}
    for box in boxes.values():
        for name in box.below:
            if boxes[name].layer > box.layer:
                above[name].append(box)
    layers: dict[int, list[str]] = {}
    for name, box in boxes.items():
        layers.setdefault(box.layer, []).append(name)
    y = float(_MARGIN)
    for _, names in sorted(layers.items()):
        wanted = {
            name: sum(box.x for box in above[name]) / len(above[name]) if above[name] else float("inf")
            for name in names
        }
        right = float(_MARGIN)
        for name in sorted(names, key=wanted.__getitem__):  # those without anything above come last
            box = boxes[name]
            middle = right + box.width / 2
            box.x = middle if wanted[name] == float("inf") else max(middle, wanted[name])
            box.y = y
            right = box.x + box.width / 2 + _GAP
        y += max(boxes[name].height for name in names) + _LAYER
    right = max((box.x + box.width / 2 for box in boxes.values()), default=0.0)
    return right + _MARGIN, y - _LAYER + _MARGIN


def _drawn(box: _Box) -> str:
    left, round_px = box.x - box.width / 2, box.height / 2 if box.is_topic else 4
    texts = "".join(
        f'<text x="{box.x:.1f}" y="{box.y + 17 + number * _LINE:.1f}" text-anchor="middle" '
        f'fill="{"#0f172a" if number == 0 else "#475569"}">{html.escape(line)}</text>'
        for number, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{left:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{round_px:.1f}" '
        f'fill="{box.colour}" stroke="#64748b"/>{texts}\n'
    )


def _edge(start: _Box, end: _Box) -> str:
    """An edge down; one that leads back goes around on the left."""
    x, y = start.x, start.y + start.height
    if end.layer > start.layer:
        middle = (y + end.y) / 2
        path = f"M{x:.1f} {y:.1f}C{x:.1f} {middle:.1f} {end.x:.1f} {middle:.1f} {end.x:.1f} {end.y:.1f}"
    else:
        left, to = start.x - start.width / 2, end.x - end.width / 2
        path = f"M{left:.1f} {start.y + 12:.1f}C0 {start.y:.1f} 0 {end.y:.1f} {to:.1f} {end.y + 12:.1f}"
    return f'<path d="{path}" fill="none" stroke="#64748b" marker-end="url(#tip)"/>\n'
