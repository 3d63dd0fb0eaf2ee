"""A topology as text, in the format of Java's Topology.describe(), and as a picture (SVG, mermaid)."""

from __future__ import annotations

import html

from ottla.streams.picture import svg
from ottla.streams.topology import AnyNode, ProcessorNode, SinkNode, SourceNode, SubTopology, Topology


class Description:
    """What `app.describe()` returns: `print` it, or look at it in a notebook."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    def __str__(self) -> str:
        subs, application = self._topology.sub_topologies, self._topology.application_id
        told = ("  " + (_global(sub) if sub.is_global else _sub_topology(sub, application)) for sub in subs)
        return "Topologies:\n " + "".join(told)

    def mermaid(self) -> str:
        """Return the topology as a mermaid flowchart."""
        lines = ["flowchart TD"]
        number = {
            name: f"n{index}"
            for index, name in enumerate(name for sub in self._topology.sub_topologies for name in sub.nodes)
        }
        topics: dict[str, str] = {}

        def topic(name: str) -> str:
            if name not in topics:
                topics[name] = f"t{len(topics)}"
                lines.append(f'    {topics[name]}[("{_quoted(name)}")]')
            return topics[name]

        stores: dict[str, str] = {}
        for sub in self._topology.sub_topologies:
            title = "global table" if sub.is_global else f"sub-topology {sub.id}"
            lines.append(f'    subgraph s{sub.id}["{title}"]')
            lines += [f'        {number[name]}["{_quoted(name)}"]' for name in sub.nodes]
            for spec in sub.stores:
                if not spec.name.startswith("$"):
                    stores[spec.name] = f"d{len(stores)}"
                    lines.append(f'        {stores[spec.name]}[/"{_quoted(spec.name)}"/]')
            lines.append("    end")
        for sub in self._topology.sub_topologies:
            for name, node in sub.nodes.items():
                lines += [f"    {number[name]} --> {number[child]}" for child in node.children]
                if isinstance(node, SourceNode):
                    lines += [f"    {topic(found)} --> {number[name]}" for found in node.topics]
                if isinstance(node, SinkNode) and isinstance(node.topic, str):
                    lines.append(f"    {number[name]} --> {topic(node.topic)}")
                if isinstance(node, ProcessorNode):
                    lines += [f"    {number[name]} -.- {stores[store]}" for store in node.stores]
        return "\n".join(lines) + "\n"

    def svg(self) -> str:
        """Return the topology as a picture (SVG), which notebooks show."""
        return svg(self._topology)

    def _repr_html_(self) -> str:
        return f"{self.svg()}<pre>{html.escape(str(self))}</pre>"


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;")


def _topics(names: tuple[str, ...], application: str) -> str:
    return "[" + ", ".join(_short(name, application) for name in names) + "]"


def _short(topic: str, application: str) -> str:
    """Java describes internal topics without the application id."""
    prefix = f"{application}-"
    internal = topic.endswith(("-repartition", "-topic"))
    return topic.removeprefix(prefix) if internal else topic


def _sub_topology(sub: SubTopology, application: str) -> str:
    sizes: dict[str, int] = {}

    def size(name: str) -> int:
        """How Java orders nodes: by the number of paths below them."""
        if name not in sizes:
            sizes[name] = 1 + sum(size(child) for child in sub.nodes[name].children)
        return sizes[name]

    def order(names: list[str]) -> list[str]:
        return sorted(names, key=lambda name: (-size(name), name))

    def told(names: list[str]) -> str:
        return ", ".join(order(names)) or "none"

    def before(names: list[str]) -> str:
        """Among parents of equal rank, the one that was named first comes first."""
        return ", ".join(sorted(names, key=lambda name: -size(name)))

    lines = [f"Sub-topology: {sub.id}"]
    for name in order(list(sub.nodes)):
        node: AnyNode = sub.nodes[name]
        match node:
            case SourceNode():
                lines.append(f"    Source: {name} (topics: {_topics(node.topics, application)})")
                lines.append(f"      --> {told(node.children)}")
            case ProcessorNode():
                lines.append(f"    Processor: {name} (stores: [{', '.join(sorted(node.stores))}])")
                lines.append(f"      --> {told(node.children)}")
                lines.append(f"      <-- {before(node.parents)}")
            case SinkNode():
                if isinstance(node.topic, str):
                    lines.append(f"    Sink: {name} (topic: {_short(node.topic, application)})")
                else:
                    lines.append(f"    Sink: {name} (extractor class: {node.topic!r})")
                lines.append(f"      <-- {before(node.parents)}")
    return "\n".join(lines) + "\n\n"


def _global(sub: SubTopology) -> str:
    source = next(iter(sub.sources))
    processor = next(node for node in sub.nodes.values() if isinstance(node, ProcessorNode))
    return (
        f"Sub-topology: {sub.id} for global store (will not generate tasks)\n"
        f"    Source: {source.name} (topics: [{source.topics[0]}])\n"
        f"      --> {processor.name}\n"
        f"    Processor: {processor.name} (stores: [{', '.join(processor.stores)}])\n"
        f"      --> none\n"
        f"      <-- {source.name}\n"
    )
