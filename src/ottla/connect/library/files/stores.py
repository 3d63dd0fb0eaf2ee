"""Where files lie: what the sink asks of a store, and folders and object stores, by obstore."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    JoinError,
    NotSupportedError,
    PreconditionError,
)
from obstore.store import LocalStore, ObjectStore, from_url

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError, RetriableError
from ottla.connect.library.files.refusals import refusal
from ottla.connect.library.files.webhdfs import SCHEMES, WebHdfs
from ottla.connect.settings import below

P = ParamSpec("P")
R = TypeVar("R")

#: The worker tries again, too; a task that is to stop must not wait for minutes.
_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class Store(Protocol):
    """Files by their paths. A file appears whole, or not at all.

    Each method raises:
        RetriableError: the store may do it later.
        ConnectError: it will not; the message is a sentence with its address.
    """

    def create(self, path: str, data: bytes) -> None:
        """Make a file.

        Raises:
            FileExistsError: there is one.
        """

    def put(self, path: str, data: bytes) -> None:
        """Make a file, or have another content in it."""

    def get(self, path: str) -> bytes:
        """Return what a file holds."""

    def has(self, path: str) -> bool:
        """Whether there is a file."""

    def list(self, folder: str) -> list[str]:
        """Return the paths of the files below a folder, in order; none if it is not there."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files; those that are not there do not count."""

    def close(self) -> None:
        """Leave nothing behind that was not finished."""


def _explained(function: Callable[P, R]) -> Callable[P, R]:
    """Have errors of obstore be those of `Store`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        store: Any = args[0]
        try:
            return function(*args, **kwargs)
        except (GenericError, JoinError) as error:
            raise RetriableError(refusal(store.shown, error)) from error
        except (BaseError, FileNotFoundError) as error:  # obstore has Python's own error for what is not there
            raise ConnectError(refusal(store.shown, error)) from error

    return run


class Objects:
    """A folder, or S3, Google Cloud Storage, Azure.

    Attributes:
        objects: obstore's own.
        shown: the address, without secrets.
    """

    def __init__(self, objects: ObjectStore, shown: str) -> None:
        self.objects = objects
        self.shown = shown

    @_explained
    def create(self, path: str, data: bytes) -> None:
        try:
            obstore.put(self.objects, path, data, mode="create")
        except (AlreadyExistsError, PreconditionError) as error:
            raise FileExistsError(path) from error
        except NotSupportedError as error:
            raise ConnectError(no_exactly_once(self.shown)) from error

    @_explained
    def put(self, path: str, data: bytes) -> None:
        obstore.put(self.objects, path, data)

    @_explained
    def get(self, path: str) -> bytes:
        return bytes(obstore.get(self.objects, path).bytes())

    @_explained
    def has(self, path: str) -> bool:
        """Files are asked for before they are written a second time: a server may refuse a long file before it has read it,
        and close the connection. The client sees a failed network then, for which it would try again without an end."""
        try:
            obstore.head(self.objects, path)
        except FileNotFoundError:
            return False
        return True

    @_explained
    def list(self, folder: str) -> list[str]:
        return sorted(entry["path"] for part in obstore.list(self.objects, f"{folder}/") for entry in part)

    @_explained
    def delete(self, paths: Sequence[str]) -> None:
        try:
            obstore.delete(self.objects, list(paths))
        except FileNotFoundError:
            pass  # another task was first

    def close(self) -> None:
        """obstore leaves nothing behind: an object is one request."""


def no_exactly_once(shown: str) -> str:
    return f"The store {shown} does not refuse to make a file that is there: nothing would be exactly once on it"


def open_store(config: Mapping[str, str], values: Mapping[str, Any]) -> Store:
    """Return the store.

    Raises:
        ConfigError: the address or an option is wrong.
    """
    url: str = values["store.url"]
    shown = url.partition("?")[0]
    try:
        if url.startswith("file:"):
            path = urllib.parse.unquote(url.removeprefix("file:").removeprefix("//"))
            return Objects(LocalStore(Path(path).absolute(), mkdir=True), shown)
        if "://" not in url:
            raise ConfigError.of("store.url", url, "an address such as file:///lake or s3://bucket/lake is needed")
        options = below(config, "store.option.")
        scheme = url.partition("://")[0]
        if scheme == "hdfs":
            raise ConfigError.of(
                "store.url",
                url,
                "HDFS is reached by HTTP: webhdfs://host:9870/lake (swebhdfs:// with TLS), the NameNode's web port",
            )
        if scheme in SCHEMES:
            return WebHdfs(
                url, options, scratch=f"{values['topics.dir'].strip('/')}/_temporary/{config.get('name', '')}"
            )
        given: dict[str, Any] = {"config": options, "retry_config": _RETRY}
        if str(options.get("endpoint", "")).startswith("http:"):
            given["client_options"] = {"allow_http": True}
        made: ObjectStore = from_url(url, **given)
        return Objects(made, shown)
    except (BaseError, ValueError, OSError) as error:
        raise ConfigError(f"store.url or an option below store.option. is wrong: {_told(error)}") from None


def _told(error: BaseException) -> str:
    """Return what a store said: the first line; the others are its source code's."""
    return str(error).strip().partition("\n")[0]
