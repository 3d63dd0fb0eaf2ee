"""Compiled kernels for tests: those beside the source if they are fresh, else built in a scratch folder (5 s)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ottla import compiled

BUILD = """
import importlib.util, pathlib, sys
from Cython.Build import cythonize
from setuptools import Extension, setup
source, shared = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
hash = importlib.util.source_hash(shared.read_bytes() + source.read_bytes()).hex().encode()
pathlib.Path(shared.name).write_bytes(shared.read_bytes())
pathlib.Path(source.name).write_bytes(source.read_bytes().replace(b"@SOURCE_HASH@", hash))
extension = Extension(source.stem, [source.name], extra_compile_args=["-O1", "-g0"])
made = cythonize([extension], quiet=True, include_path=["."])
setup(name="scratch", ext_modules=made, script_args=["-q", "build_ext", "--inplace"])
"""


def compiled_kernel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Return the extension made of the file at `source`; skip the test where it cannot be made."""
    package = f"ottla.{'.'.join(source.parent.parts[source.parent.parts.index('ottla', 1) + 1 :])}"
    text = compiled.source_of(source)
    found, _ = compiled.load(package, source.stem, str(source.parent), text)
    if found is not None:
        return found
    folder = tmp_path_factory.mktemp("kernels")
    command = [sys.executable, "-c", BUILD, str(source), str(compiled.SHARED)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"no compiled kernels to compare with: {done.stderr.strip()[-300:]}")
    built, status = compiled.load(package, source.stem, str(folder), text)
    assert built is not None, status
    return built
