"""Builds the site of docs/ into build/site: the pages as they are, a reference made from docstrings, a search.

    python tools/build_docs.py          # what `make docs` calls, with an environment that has zensical and mkdocstrings

Zensical reads Markdown from a folder, so the pages are copied into build/pages first: README becomes the front page, links
to files outside docs become plain words, and each public name of `ottla` gets a place in the reference.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
SITE = ROOT / "build" / "site"

#: The pages in the order of the menu: (heading, [(title, file)]).
MENU = [
    ("Start", [("Overview", "index.md"), ("Ten minutes", "tutorial.md"), ("What is different", "differences.md")]),
    (
        "Python",
        [
            ("The client", "client.md"),
            ("Administration", "admin.md"),
            ("Streams", "streams.md"),
            ("Examples", "examples.md"),
            ("Connect", "connect.md"),
            ("Connectors", "connectors.md"),
            ("Testing", "testing.md"),
            ("Coming from other clients", "migrating.md"),
        ],
    ),
    (
        "Operation",
        [
            ("Command line", "command-line.md"),
            ("Configuration", "configuration.md"),
            ("Security", "security.md"),
            ("Quotas", "quotas.md"),
            ("Metrics", "metrics.md"),
            ("Several brokers", "cluster.md"),
            ("Security between brokers", "cluster-security.md"),
            ("Operations", "operations.md"),
            ("Damaged logs", "damaged-logs.md"),
            ("Moving from Kafka", "moving-from-kafka.md"),
            ("Works with", "works-with.md"),
            ("What was done to clusters", "cluster-campaigns.md"),
            ("What was done to the client", "client-campaigns.md"),
        ],
    ),
]
#: The reference: (page, title, names of `ottla` or whole modules).
REFERENCE = [
    (
        "producer",
        "Producer",
        ["Producer", "Transaction", "Delivery", "TableDelivery", "PartitionWritten", "RecordMetadata"],
    ),
    (
        "consumer",
        "Consumer",
        ["Consumer", "Record", "Batch", "Headers", "Retry", "OffsetAndMetadata", "GroupMetadata", "TopicPartition"],
    ),
    ("share-consumer", "Share consumer", ["ShareConsumer", "AcquiredRecord"]),
    ("admin", "Admin", ["Admin", "NewTopic", "Acl", "AclFilter", "AdminErrors"]),
    ("shortcuts", "read and follow", ["read", "follow", "read_properties"]),
    ("group-membership", "Group membership", ["GroupMembership", "JoinedMember", "Joined", "Rebalancing", "Lost"]),
    ("serde", "ottla.serde", ["ottla.serde"]),
    ("sasl", "ottla.sasl", ["ottla.sasl"]),
    ("otel", "ottla.otel", ["ottla.otel"]),
    ("testing", "ottla.testing", ["ottla.testing.local_broker.Broker", "ottla.testing.local_cluster.Cluster"]),
    ("errors", "Errors", []),
]


def main() -> int:
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    if left := names_left():
        print(f"tools/build_docs.py has no place for {', '.join(left)}", file=sys.stderr)
        return 1
    (PAGES / "index.md").write_text(_inside((ROOT / "README.md").read_text().replace("](docs/", "](")))
    for page in PAGES.glob("*.md"):
        page.write_text(_inside(page.read_text()))
    _write_reference()
    (ROOT / "build" / "zensical.toml").write_text(_configuration())
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--clean", "-f", "zensical.toml"]
    done = subprocess.run(command, cwd=ROOT / "build", check=False)
    if not done.returncode:
        print(f"the site is in {SITE.relative_to(ROOT)}: open {SITE.relative_to(ROOT)}/index.html")
    return done.returncode


def _inside(text: str) -> str:
    """Turn links to what is no page of the site into plain words."""

    def link(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        is_page = re.match(r"https?:|#|mailto:", target) or (PAGES / target.partition("#")[0]).exists()
        return found[0] if is_page and ".." not in target else f"{words} (`{target.removeprefix('../')}`)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, text)


def _write_reference() -> None:
    """Write a page for each part of the reference: names are shown where programs import them from."""
    places = _public_places()
    errors = sorted(filter(_is_error, places))
    folder = PAGES / "reference"
    folder.mkdir()
    for page, title, names in REFERENCE:
        parts = [f"# {title}\n"]
        for name in names or errors:
            path = name if "." in name else f"{places[name]}.{name}"
            parts.append(f"\n::: {path}\n")
            if "." not in name:
                parts.append(f'    options:\n      heading: "ottla.{name}"\n      toc_label: "{name}"\n')
        (folder / f"{page}.md").write_text("".join(parts))


def pages_left() -> list[str]:
    """Return the pages of docs/ that MENU does not name: the menu has them at its end."""
    listed = {file for _, pages in MENU for _, file in pages}
    return sorted({page.name for page in (ROOT / "docs").glob("*.md")} - listed)


def names_left() -> list[str]:
    """Return the names that `ottla` exports and the reference does not have."""
    shown = {name for _, _, names in REFERENCE for name in names} | {"aio", "assignors", "sasl", "serde"}
    return sorted(name for name in set(_public_places()) - shown if not _is_error(name))


def _is_error(name: str) -> bool:
    return name.endswith(("Error", "Errors")) or name == "Abort"


def _public_places() -> dict[str, str]:
    """Return where each name that `ottla` exports is defined, read from its source."""
    tree = ast.parse((ROOT / "src" / "ottla" / "__init__.py").read_text())
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ottla"):
            found.update({alias.name: node.module or "" for alias in node.names if alias.asname == alias.name})
    return found


def _configuration() -> str:
    reference = [(title, f"reference/{page}.md") for page, title, _ in REFERENCE]
    left = [((ROOT / "docs" / file).read_text().partition("\n")[0].lstrip("# "), file) for file in pages_left()]
    more = [("More", left)] if left else []
    menu = ",\n".join(
        '  { "%s" = [%s] }' % (heading, ", ".join(f'{{ "{title}" = "{file}" }}' for title, file in pages))  # noqa: UP031
        for heading, pages in [*MENU, *more, ("Reference", reference)]
    )
    return f"""[project]
site_name = "ottla"
site_description = "A Kafka you can pip install"
docs_dir = "pages"
site_dir = "site"
use_directory_urls = false
nav = [
{menu}
]

[project.theme]
features = ["content.code.copy", "navigation.tabs", "navigation.sections", "navigation.top", "search.highlight", "toc.follow"]
font = false

[[project.theme.palette]]
scheme = "default"
toggle.icon = "lucide/sun"
toggle.name = "Dark"

[[project.theme.palette]]
scheme = "slate"
toggle.icon = "lucide/moon"
toggle.name = "Light"

[project.markdown_extensions.toc]
permalink = true

[project.markdown_extensions.tables]

[project.markdown_extensions.pymdownx.highlight]

[project.markdown_extensions.pymdownx.superfences]

[project.plugins.mkdocstrings.handlers.python]
paths = ["../src"]

[project.plugins.mkdocstrings.handlers.python.options]
docstring_style = "google"
show_source = false
show_root_heading = true
show_root_full_path = false
heading_level = 2
members_order = "source"
show_signature_annotations = true
separate_signature = true
signature_crossrefs = true
merge_init_into_class = false
show_labels = false
inherited_members = true
filters = ["!^_"]
"""


if __name__ == "__main__":
    sys.exit(main())
