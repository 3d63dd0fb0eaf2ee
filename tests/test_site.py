"""The site that `make docs` builds has a place for each page and each public name."""

from __future__ import annotations

from pathlib import Path

from tools import build_docs

import ottla


def test_every_page_and_every_public_name_has_its_place() -> None:
    configuration = build_docs._configuration()
    docs = Path(__file__).parents[1] / "docs"
    assert [page.name for page in docs.glob("*.md") if f'"{page.name}"' not in configuration] == []
    assert build_docs.names_left() == []
    assert set(build_docs._public_places()) == set(ottla.__all__) - {"__version__"}


def test_the_menu_names_pages_that_exist() -> None:
    docs = Path(__file__).parents[1] / "docs"
    for _, pages in build_docs.MENU:
        for _, file in pages:
            assert file == "index.md" or (docs / file).is_file(), file


def test_links_to_what_is_no_page_become_words(tmp_path: Path) -> None:
    text = "[a](../benchmarks/X.md) [b](https://kafka.apache.org) [c](#there)"
    assert build_docs._inside(text) == "a (`benchmarks/X.md`) [b](https://kafka.apache.org) [c](#there)"
