"""The table of SECURITY.md: every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_page_names_is_there() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    table = text[text.index("## What attackers try") : text.index("## What it does not promise")]
    named = 0
    for row in re.findall(r"^\| [^|]+ \| ([^|]+) \|$", table, re.MULTILINE):
        code = ""
        for name in re.findall(r"`([^` ]+)`", row):
            path, _, test = name.partition("::")
            if path.startswith("tests/"):
                code = (ROOT / path).read_text()
            else:
                test = path  # one more of the file before it
            if test:
                named += 1
                assert re.search(rf"def {test}\b", code), name
    assert named > 20
