"""Virtual environments for connectors whose packages do not go together with others'.

A connector's `plugin.env` names one of those that the worker's file lists as `plugin.env.<name>=FOLDER`: nobody can name a
folder by REST. The process is a fork all the same, of the worker's interpreter; the environment's packages come before the
worker's. So it has to be made by the same version of Python, and does not need ottla.
"""

from __future__ import annotations

import importlib
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ottla.connect.config_def import ConfigError

KEY: Final = "plugin.env"
PREFIX: Final = "plugin.env."


def environment_of(config: Mapping[str, str | None]) -> str:
    """Return the name of the environment that a connector's configuration asks for; empty: there is none."""
    return (config.get(KEY) or "").strip()


def enter_environment(worker: Mapping[str, str], config: Mapping[str, str | None]) -> None:
    """Have this process import what is in a connector's environment before anything else, from now on.

    Raises:
        ConfigError: there is no such environment, or it is one of another Python.
    """
    name = environment_of(config)
    if not name:
        return
    folder = worker.get(PREFIX + name)
    if folder is None:
        known = ", ".join(sorted(key.removeprefix(PREFIX) for key in worker if key.startswith(PREFIX)))
        raise ConfigError.of(
            KEY, name, f"the worker's file has no {PREFIX}{name}=FOLDER; it has " + (known or "no environment")
        )
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = Path(folder) / "lib" / version / "site-packages"
    if not packages.is_dir():
        raise ConfigError.of(KEY, name, f"{packages} is not there: a virtual environment of {version} is needed")
    before = list(sys.path)
    site.addsitedir(str(packages))
    sys.path[:] = [place for place in sys.path if place not in before] + before
    importlib.invalidate_caches()
