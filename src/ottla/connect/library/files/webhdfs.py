"""HDFS by its REST interface, WebHDFS: https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html

A file is written under a name of its own and gets its place by a rename, which the NameNode does at once or not at all. A
rename to a name that is there is refused by the answer `false`, with status 200: so only the answer says whether the file was
made. What a killed task leaves below `_temporary` is removed by the next one, an hour later.
"""

from __future__ import annotations

import builtins
import http.client
import json
import logging
import ssl
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from ottla.connect.config_def import ConfigError
from ottla.connect.errors import ConnectError, RetriableError

log = logging.getLogger(__name__)
SCHEMES = {"webhdfs": False, "swebhdfs": True}
_PORTS = {False: 9870, True: 9871}
_OPTIONS = frozenset({"user", "ca.location", "timeout.ms", "replication"})
#: What a NameNode says that may be otherwise in a moment: it is not the active one, it is starting, a DataNode is missing.
#: And what a DataNode says, by the name of Java's error, that does not reach the NameNode any more which has named it.
_PASSING = frozenset(
    {
        "ConnectException",
        "ConnectTimeoutException",
        "EOFException",
        "IOException",
        "NoRouteToHostException",
        "NotReplicatedYetException",
        "RetriableException",
        "SafeModeException",
        "ServerNotActiveException",
        "SocketException",
        "SocketTimeoutException",
        "StandbyException",
    }
)
#: After so long what another task has left below `_temporary` is nobody's.
_LEFT_MS = 3_600_000
_TOLD = 500


class _Remote(Exception):
    """What a NameNode or a DataNode has answered: the name of an exception, and its message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{message} ({name})")
        self.name = name


class WebHdfs:
    """A folder of HDFS.

    Args:
        url: `webhdfs://namenode:9870/lake`, or several NameNodes, `webhdfs://one:9870,two:9870/lake`; `swebhdfs:` with TLS.
        options: `user` (without Kerberos the NameNode believes it), `ca.location`, `timeout.ms`, `replication`.
        scratch: the folder for files that are being written.

    Raises:
        ConfigError: the address or an option is wrong.
    """

    def __init__(self, url: str, options: Mapping[str, str], *, scratch: str) -> None:
        parts = urlsplit(url)
        self._secure = SCHEMES[parts.scheme]
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._nodes = [self._node(each, url) for each in parts.netloc.split(",")]
        self._root = "/" + parts.path.strip("/")
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise ConfigError(
                f"There is no store.option.{unknown[0]} for HDFS; there are {', '.join(sorted(_OPTIONS))}"
            )
        try:
            self._timeout_s = int(options.get("timeout.ms", 30000)) / 1000
            self._replication = {"replication": str(int(options["replication"]))} if "replication" in options else {}
        except ValueError as error:
            raise ConfigError(
                f"store.option.timeout.ms and store.option.replication are whole numbers: {error}"
            ) from None
        self._user = {"user.name": options["user"]} if options.get("user") else {}
        self._tls = ssl.create_default_context(cafile=options.get("ca.location")) if self._secure else None
        self._scratches, self._scratch = scratch, f"{scratch}/{uuid.uuid4().hex}"
        self._folders: set[str] = set()
        self._has_begun = False

    def _node(self, text: str, url: str) -> tuple[str, int]:
        try:
            found = SplitResult("", text, "", "", "")
            port = found.port
        except ValueError:
            port = -1
        if port == -1 or not found.hostname or found.username is not None:
            raise ConfigError.of(
                "store.url", url, "webhdfs://host:port/folder is needed; the user is store.option.user"
            )
        return found.hostname, port or _PORTS[self._secure]

    # What the sink asks for

    def create(self, path: str, data: bytes) -> None:
        """Make a file, unless there is one (FileExistsError)."""
        temporary = self._write(data)
        if self._rename(temporary, path):
            return
        self._ask("DELETE", "DELETE", temporary)
        if self.has(path):
            raise FileExistsError(path)
        self._folders.clear()  # somebody has removed the folder
        raise RetriableError(f"The store {self.shown} refused to rename a file to {path}, which is not there")

    def put(self, path: str, data: bytes) -> None:
        """Make a file, or replace the one that is there."""
        temporary = self._write(data)
        self._make_folder(path.rpartition("/")[0])
        self._ask("PUT", "RENAME", temporary, destination=self._whole(path), renameoptions="OVERWRITE")

    def get(self, path: str) -> bytes:
        """Return what a file holds."""
        try:
            _, data = self._ask("GET", "OPEN", path)
        except FileNotFoundError:
            raise ConnectError(f"The store {self.shown} has no file {path}") from None
        return data

    def has(self, path: str) -> bool:
        """Whether there is a file."""
        try:
            self._ask("GET", "GETFILESTATUS", path)
        except FileNotFoundError:
            return False
        return True

    def list(self, folder: str) -> list[str]:
        """Return the paths of the files below a folder, in order."""
        found: list[str] = []
        for entry in self._entries(folder):
            path = f"{folder}/{entry['pathSuffix']}"
            found += self.list(path) if entry["type"] == "DIRECTORY" else [path]
        return sorted(found)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files."""
        for path in paths:
            self._ask("DELETE", "DELETE", path)

    def close(self) -> None:
        """Remove what was not finished."""
        try:
            if self._has_begun:
                self._ask("DELETE", "DELETE", self._scratch, recursive="true")
        except ConnectError as error:
            log.warning("%s is left behind: %s", self._scratch, error)

    # Files

    def _entries(self, folder: str) -> builtins.list[dict[str, Any]]:
        try:
            answer, _ = self._ask("GET", "LISTSTATUS", folder)
        except FileNotFoundError:
            return []
        entries: builtins.list[dict[str, Any]] = answer["FileStatuses"]["FileStatus"]
        return entries

    def _write(self, data: bytes) -> str:
        """Write a file under a name of its own; return the name."""
        if not self._has_begun:
            self._clean()
        path = f"{self._scratch}/{uuid.uuid4().hex}"
        # The NameNode names a DataNode, which takes the file. It stands in no place yet: to write it twice does no harm.
        self._ask("PUT", "CREATE", path, data, overwrite="true", **self._replication)
        return path

    def _clean(self) -> None:
        """Make the folder for this task's temporary files; remove those of tasks that are gone."""
        self._make_folder(self._scratch)
        ages = {entry["pathSuffix"]: int(entry["modificationTime"]) for entry in self._entries(self._scratches)}
        now = ages.get(self._scratch.rpartition("/")[2])
        for name, changed in ages.items():
            if now is not None and now - changed > _LEFT_MS:
                self._ask("DELETE", "DELETE", f"{self._scratches}/{name}", recursive="true")
        self._has_begun = True

    def _make_folder(self, folder: str) -> None:
        if folder not in self._folders:
            self._ask("PUT", "MKDIRS", folder)
            self._folders.add(folder)

    def _rename(self, temporary: str, path: str) -> bool:
        """Give a file its place; whether that was done."""
        self._make_folder(path.rpartition("/")[0])
        answer, _ = self._ask("PUT", "RENAME", temporary, destination=self._whole(path))
        done: bool = answer.get("boolean") is True
        return done

    # Requests

    def _whole(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def _ask(
        self, method: str, operation: str, path: str, data: bytes | None = None, **parameters: str
    ) -> tuple[dict[str, Any], bytes]:
        """Return an answer, as JSON and as bytes; each NameNode is asked once.

        Raises:
            FileNotFoundError: there is no such path to read.
            RetriableError, ConnectError: as of a store.
        """
        query = urlencode({"op": operation, **parameters, **self._user})
        target = f"/webhdfs/v1{quote(self._whole(path))}?{query}"
        passing: Exception | None = None
        for _ in self._nodes:
            try:
                answer = self._exchange(self._nodes[0], method, target, data)
                return (json.loads(answer) if operation != "OPEN" and answer.strip() else {}), answer
            except _Remote as error:
                if error.name == "FileNotFoundException":
                    if method == "GET":
                        raise FileNotFoundError(path) from error
                    self._folders.clear()  # somebody has removed a folder, or the file is renamed and the answer was lost
                elif error.name not in _PASSING:
                    raise ConnectError(f"The store {self.shown}: {error}") from error
                passing = error
            except (OSError, http.client.HTTPException, ValueError) as error:
                passing = error
            self._nodes.append(self._nodes.pop(0))  # the next one may be the active one
        raise RetriableError(f"The store {self.shown} does not do it now: {passing}") from passing

    def _exchange(self, node: tuple[str, int], method: str, target: str, data: bytes | None) -> bytes:
        """Ask a NameNode, and the DataNode that it names."""
        status, location, answer = self._request(node, method, target, b"" if data is not None else None)
        if status == http.client.TEMPORARY_REDIRECT:
            parts = urlsplit(location)
            if parts.hostname is None:
                raise ValueError(f"it names no DataNode: {location!r}")
            where = parts.hostname, parts.port or 80
            status, _, answer = self._request(where, method, f"{parts.path}?{parts.query}", data)
        if status >= http.client.BAD_REQUEST:
            raise _remote(status, answer)
        return answer

    def _request(self, node: tuple[str, int], method: str, target: str, body: bytes | None) -> tuple[int, str, bytes]:
        connection = (
            http.client.HTTPConnection(*node, timeout=self._timeout_s)
            if self._tls is None
            else http.client.HTTPSConnection(*node, timeout=self._timeout_s, context=self._tls)
        )
        try:
            connection.request(method, target, body, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            return response.status, response.headers.get("Location", ""), response.read()
        finally:
            connection.close()


def _remote(status: int, answer: bytes) -> _Remote:
    try:
        told = json.loads(answer)["RemoteException"]
        return _Remote(str(told["exception"]), " ".join(str(told["message"]).split())[:_TOLD])
    except (ValueError, KeyError, TypeError):
        name = "RetriableException" if status >= http.client.INTERNAL_SERVER_ERROR else "no WebHDFS"
        return _Remote(name, f"it answers {status} {answer[:_TOLD].decode(errors='replace')}")
