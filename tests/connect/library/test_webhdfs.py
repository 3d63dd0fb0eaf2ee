"""WebHdfs: which answers of servers may be otherwise in a moment. The answers are given here, there is no server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ottla.connect import ConnectError, RetriableError
from ottla.connect.library.files.webhdfs import WebHdfs


def answering(monkeypatch: pytest.MonkeyPatch, operation: str, exception: str) -> WebHdfs:
    """Return a store whose servers do everything but one operation."""

    def request(self: WebHdfs, node: Any, method: str, target: str, body: bytes | None) -> tuple[int, str, bytes]:
        if f"op={operation}&" in f"{target}&":
            told = {"RemoteException": {"exception": exception, "message": "it is said why"}}
            return 403, "", json.dumps(told).encode()
        if "op=LISTSTATUS" in target:
            return 200, "", b'{"FileStatuses": {"FileStatus": []}}'
        return 200, "", b'{"boolean": true}'

    monkeypatch.setattr(WebHdfs, "_request", request)
    return WebHdfs("webhdfs://one,two/lake", {}, scratch="topics/_temporary/x")


@pytest.mark.parametrize("exception", ["ConnectException", "SocketTimeoutException", "NoRouteToHostException"])
def test_a_datanode_that_does_not_reach_its_namenode_is_asked_again(
    exception: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The NameNode has died after it named the DataNode, which says so in the answer."""
    with pytest.raises(RetriableError, match="does not do it now"):
        answering(monkeypatch, "CREATE", exception).create("a/file", b"")


@pytest.mark.parametrize("operation", ["CREATE", "RENAME"])
def test_a_file_or_folder_that_vanishes_while_it_is_written_is_written_again(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has removed a folder, or a NameNode has renamed the file and its answer is lost, so that the next one does
    not find it."""
    with pytest.raises(RetriableError, match="does not do it now"):
        answering(monkeypatch, operation, "FileNotFoundException").put("a/file", b"")


@pytest.mark.parametrize("exception", ["SafeModeException", "StandbyException"])
def test_a_namenode_that_takes_nothing_now_is_asked_again(exception: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetriableError, match="does not do it now"):
        answering(monkeypatch, "MKDIRS", exception).create("a/file", b"")


def test_a_refusal_that_stays_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectError, match="it is said why") as refused:
        answering(monkeypatch, "CREATE", "AccessControlException").create("a/file", b"")
    assert not isinstance(refused.value, RetriableError)


def test_a_file_that_is_read_and_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectError, match="has no file a/file"):
        answering(monkeypatch, "OPEN", "FileNotFoundException").get("a/file")
    assert not answering(monkeypatch, "GETFILESTATUS", "FileNotFoundException").has("a/file")
