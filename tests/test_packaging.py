"""What `pip install ottla` brings, and that wheel and source distribution work where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from tests.support.broker_process import BrokerProcess
from tests.test_install import needed_by

ROOT = Path(__file__).parents[1]
PACKAGES_MAX, MEGABYTES_MAX = 12, 40


def packages() -> list[str]:
    """ottla and everything that comes with it."""
    return ["ottla", *sorted(needed_by("ottla"))]


def size(package: str) -> int:
    """Bytes that a package takes once installed; of ottla itself those of the source tree."""
    if package == "ottla":
        paths = [
            path for path in (ROOT / "src" / "ottla").rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
    else:
        paths = [Path(str(file.locate())) for file in metadata.files(package) or () if "__pycache__" not in file.parts]
    return sum(path.stat().st_size for path in paths if path.exists())


def test_a_plain_install_is_small_and_the_readme_says_how_small() -> None:
    found = packages()
    megabytes = sum(map(size, found)) / 1e6
    assert len(found) <= PACKAGES_MAX, found
    assert megabytes <= MEGABYTES_MAX, {package: size(package) for package in found}
    told = re.search(r"brings (\d+) small packages, (\d+) MB in all", (ROOT / "README.md").read_text())
    assert told is not None
    assert int(told[1]) == len(found) - 1
    assert abs(int(told[2]) - megabytes) <= 3, megabytes


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, target: Path, **environment: str) -> Path:
    """Build a wheel or a source distribution from a copy of the tree, as `python -m build` does."""
    tree = target / "tree"
    run("git", "-C", ROOT, "worktree", "prune")
    tree.mkdir(parents=True)
    listed = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    script = (
        f"import os; os.chdir({str(tree)!r}); from setuptools import build_meta as b; b.build_{kind}({str(target)!r})"
    )
    run(sys.executable, "-c", script, **environment)
    (made,) = [path for path in target.iterdir() if path.suffix in (".whl", ".gz")]
    return made


def install(archive: Path, venv: Path) -> Path:
    """Install an archive into an environment that has ottla's dependencies and nothing else; return its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    for package in needed_by("ottla") | ({"setuptools", "cython"} if archive.suffix == ".gz" else set()):
        for file in metadata.files(package) or ():
            source = Path(str(file.locate()))
            if not file.parts[0].startswith("..") and source.exists():
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                if not (site / file).exists():
                    (site / file).symlink_to(source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        venv / "bin" / "python",
        "install",
        *options,
        archive,
    )
    return venv / "bin" / "python"


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("kind", "environment", "kernels"),
    [("wheel", {}, "compiled"), ("wheel", {"OTTLA_PLAIN": "1"}, "plain"), ("sdist", {}, "compiled")],
)
def test_an_archive_works_where_nothing_else_is(
    kind: str, environment: dict[str, str], kernels: str, tmp_path: Path
) -> None:
    archive = build(kind, tmp_path / "made", **environment)
    assert ("none-any" in archive.name) == (kernels == "plain")
    python = install(archive, tmp_path / "venv")
    ottla = python.parent / "ottla"
    assert run(ottla, "--version", cwd="").startswith("ottla ")
    broker = BrokerProcess(data_dir=tmp_path / "data", command=(str(ottla),))
    try:
        broker.start()
        assert f"kernels {kernels}" in broker.ready_line
        run(ottla, "produce", "orders", "-k", "a", "-v", "hello", KAFKA_BOOTSTRAP_SERVERS=broker.address)
        printed = run(ottla, "consume", "orders", "-e", "-f", "%k=%s", KAFKA_BOOTSTRAP_SERVERS=broker.address)
        assert printed == "a=hello"
        assert run(ottla, "doctor", "-b", broker.address)
    finally:
        broker.close()
    fixture = (
        "from ottla.testing import Broker\nwith Broker() as b: b.produce('t', ['x']); print(b.topic('t').values(1))"
    )
    assert run(python, "-c", fixture) == "[b'x']\n"
    script = (
        "from importlib.metadata import entry_points as found; print([one.value for one in found(group='pytest11')])"
    )
    assert "ottla.testing.pytest_plugin" in run(python, "-c", script)


@pytest.mark.compiler
def test_archives_hold_what_belongs_into_them(tmp_path: Path) -> None:
    wheel = build("wheel", tmp_path / "wheel", OTTLA_PLAIN="1")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ottla/py.typed" in names
    assert not [name for name in names if not name.startswith(("ottla/", "ottla-"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sdist = build("sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as files:
        inside = {name.partition("/")[2] for name in files.getnames()}
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "src/ottla/cli/main.py"} <= inside
