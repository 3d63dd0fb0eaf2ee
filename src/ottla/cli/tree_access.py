"""Coordination trees for commands that work on them directly: on ZooKeeper, in a data directory, served by a supervisor."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from ottla.cluster.nodes import BadNodeError
from ottla.cluster.preparation import ForeignTreeError, InconsistentClusterIdError, NewerTreeError
from ottla.cluster.tree import TreeError, TreeUnavailableError
from ottla.config import ConfigError
from ottla.errors import StorageError
from ottla.offload import ThreadOffload

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig
    from ottla.cluster.tree import Tree

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

TREE_ERRORS = (
    BadNodeError,
    ForeignTreeError,
    InconsistentClusterIdError,
    NewerTreeError,
    StorageError,
    TreeError,
    TreeUnavailableError,
)


def tree_options(function: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options that say where a tree is: `properties`, `data_dir`, `zookeeper`, `overrides`."""

    @click.argument("properties", required=False, metavar="[server.properties]")
    @click.option(
        "--zookeeper", metavar="HOST:PORT,...[/PATH]", help="The ensemble that the cluster's state is kept on."
    )
    @click.option("--data-dir", metavar="DIR", help="The data directory.")
    @click.option(
        "-X", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the broker, zookeeper.* too."
    )
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*args, **kwargs)

    return run


def read_settings(
    properties: str | None,
    data_dir: str | None,
    zookeeper: str | None,
    overrides: Sequence[str],
    broker_id: int | None = None,
) -> BrokerConfig:
    """Return the broker's configuration, from the same sources as `ottla serve`.

    Raises:
        click.UsageError: something in it is wrong.
    """
    from ottla.cli.serve import read_config

    given = argparse.Namespace(
        properties=properties,
        data_dir=data_dir,
        zookeeper=zookeeper,
        override=list(overrides),
        broker_id=broker_id,
        port=None,
        host=None,
        advertise=None,
        cluster_id=None,
    )
    try:
        return read_config(given, os.environ, is_to_serve=False)
    except ConfigError as error:
        raise click.UsageError("; ".join(map(str, error.mistakes))) from None
    except OSError as error:
        raise click.UsageError(f"cannot read {properties}: {error.strerror or error}") from None


@asynccontextmanager
async def ensemble(config: BrokerConfig) -> AsyncIterator[Tree]:
    """Open a session with the ZooKeeper ensemble that a configuration names."""
    from ottla.broker.wiring.machine import sessions_with

    assert config.zookeeper is not None
    async with AsyncExitStack() as stack:
        offload = ThreadOffload(2)
        stack.callback(offload.close)
        tree = await sessions_with(config.zookeeper, offload)("")
        stack.push_async_callback(tree.close)
        yield tree


@asynccontextmanager
async def tree_file(path: str) -> AsyncIterator[Tree]:
    """Open the tree in a file that no broker uses."""
    from ottla.cluster.trees.local import LocalTree

    async with AsyncExitStack() as stack:
        offload = ThreadOffload(1)
        stack.callback(offload.close)
        tree = LocalTree(path, offload)
        await tree.open()
        stack.push_async_callback(tree.close)
        yield tree


def run_on_tree(work: Coroutine[Any, Any, T], *more: type[Exception]) -> T:
    """Run what works on trees.

    Args:
        more: errors whose text is for the user, beside those of trees.

    Raises:
        click.ClickException: it did not work, with the sentence for the user.
    """
    told: tuple[type[Exception], ...] = (*TREE_ERRORS, *more)
    try:
        return asyncio.run(work)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except told as error:
        raise click.ClickException(str(error)) from error
