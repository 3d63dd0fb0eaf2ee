"""Requests that another worker answers are passed on to it: to the leader, and from there to the worker that runs a task.

As in Java a request is passed on twice at most, which the parameter `forward` counts; then it is answered with 409.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from ottla.connect.distributed.worker import NotHereError
from ottla.web import Answer, WebRequest, WebResponse

#: Longer than a worker takes to give up a plugin.
_LIMIT_S: Final = 100.0
#: Which worker has answered: two with one address are found by it.
INSTANCE: Final = "X-Ottla-Instance"
_PASSED_ON: Final = ("Authorization", "Content-Type", "Accept")


def forwarding(answer: Answer, tls: Callable[[], ssl.SSLContext]) -> Answer:
    """Return what answers, or passes on."""

    def answer_or_pass_on(request: WebRequest) -> WebResponse:
        try:
            return answer(request)
        except NotHereError as error:
            return _pass_on(request, error.url, tls)

    return answer_or_pass_on


def _pass_on(request: WebRequest, url: str, tls: Callable[[], ssl.SSLContext]) -> WebResponse:
    forward: Sequence[str] = request.query.get("forward", ())
    if forward and forward[-1] != "true":
        text = "Cannot complete request because of a conflicting operation (e.g. worker rebalance)"
        return WebResponse(status=409, body={"error_code": 409, "message": text})
    target = request.target.partition("?")
    kept = [part for part in target[2].split("&") if part and not part.startswith("forward=")]
    path = f"{target[0]}?{'&'.join([*kept, 'forward=' + ('false' if forward else 'true')])}"
    headers = {name: request.headers[name] for name in _PASSED_ON if request.headers.get(name) is not None}
    try:
        status, found, body = _ask(url, request.method, path, request.body or None, headers, tls)
    except (OSError, http.client.HTTPException) as error:
        text = f"The worker at {url}, which has to answer this, cannot be reached: {error}"
        return WebResponse(status=500, body={"error_code": 500, "message": text})
    passed = {name: found[name] for name in ("Location", "WWW-Authenticate") if found.get(name) is not None}
    kind = found.get("Content-Type")
    return WebResponse(status=status, body=body or None, content_type=kind, headers=passed)


def _ask(
    url: str, method: str, path: str, body: bytes | None, headers: dict[str, str], tls: Callable[[], ssl.SSLContext],
    limit_s: float = _LIMIT_S,
) -> tuple[int, http.client.HTTPMessage, bytes]:  # fmt: skip
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    connection = (
        http.client.HTTPSConnection(host, port, timeout=limit_s, context=tls())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=limit_s)
    )
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, response.msg, response.read()
    finally:
        connection.close()


def instance_at(url: str, tls: Callable[[], ssl.SSLContext]) -> str | None:
    """Return which worker answers at an address; None: none of ottla's.

    Raises:
        OSError, http.client.HTTPException: none answers.
    """
    _, headers, _ = _ask(url, "GET", "/", None, {"Accept": "application/json"}, tls, 5.0)
    return headers.get(INSTANCE)
