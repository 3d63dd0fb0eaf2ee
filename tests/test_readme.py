"""tests/README.md says of every module where it is tested, and names nothing that is not there."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from tests.conftest import SLOW

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ottla"
ROW = re.compile(r"^\| (`[^|]+`) \| (`[^|]+`) \|$", re.MULTILINE)


def rows() -> list[tuple[list[str], list[str]]]:
    text = (ROOT / "tests" / "README.md").read_text().partition("## Modules without")[2]
    return [(re.findall(r"`([^`]+)`", left), re.findall(r"`([^`]+)`", right)) for left, right in ROW.findall(text)]


def modules() -> list[str]:
    """Return the modules that people wrote, without suffix: `storage/log`."""
    found = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    return sorted(str(path.with_suffix("")) for path in found if "messages" not in path.parts)


def has_own_test(module: str) -> bool:
    folder, _, name = module.rpartition("/")
    return (ROOT / "tests" / folder / f"test_{name.lstrip('_')}.py").exists()


def test_every_module_has_a_test_of_its_name_or_a_row() -> None:
    patterns = [pattern for left, _ in rows() for pattern in left]
    missing = [m for m in modules() if not has_own_test(m) and not any(fnmatch(m, p) for p in patterns)]
    assert not missing


def test_every_row_names_modules_and_tests_that_are_there() -> None:
    for left, right in rows():
        for pattern in left:
            assert any(fnmatch(module, pattern) for module in modules()), pattern
        for path in right:
            assert (ROOT / path).exists(), path


def test_what_is_marked_slow_is_there() -> None:
    assert [path for path in SLOW if not (ROOT / path).exists()] == []
