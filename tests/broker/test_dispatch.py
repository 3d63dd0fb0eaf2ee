"""Answers that come later, as futures: given in the frame of their request, and never taken back by a client that goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ottla.broker.dispatch import Dispatcher
from ottla.cluster.image import ClusterImage
from ottla.errors import NotCoordinatorError
from ottla.network.connection import PendingReply
from ottla.observability.metrics import BrokerMetrics
from ottla.protocol.api import SERVED, ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse


class Connection:
    """As much of a connection as handlers see."""

    listener, peer_host, local_host, local_port, closing, session = "PLAINTEXT", "10.0.0.7", "", 0, False, None


def ask(answer: Any) -> PendingReply:
    """Send a heartbeat to a handler that returns `answer`."""
    routes = {**dict.fromkeys(SERVED, lambda context, request: None), ApiKey.HEARTBEAT: lambda context, request: answer}
    dispatcher = Dispatcher(routes, ClusterImage, 1, BrokerMetrics())
    header = RequestHeader(request_api_key=ApiKey.HEARTBEAT, request_api_version=4, correlation_id=7, client_id="me")
    frame = encode(header, request_header_version(ApiKey.HEARTBEAT, 4)) + encode(HeartbeatRequest(group_id="g"), 4)
    reply = dispatcher.handle(Connection(), memoryview(frame))  # type: ignore[arg-type]
    assert isinstance(reply, PendingReply)
    return reply


def told(frame: list[Any] | None) -> HeartbeatResponse:
    assert frame is not None
    data = b"".join(frame)
    assert (int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")) == (len(data) - 4, 7)
    return decode(HeartbeatResponse, 4, data, 9)[0]


async def test_a_future_is_answered_when_it_is_done() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply = ask(answer)
    assert reply.blocks_next
    await asyncio.sleep(0)
    assert not reply.future.done()
    answer.set_result(HeartbeatResponse(error_code=27))
    assert told(await reply.future).error_code == 27


async def test_an_error_is_put_into_the_answer() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply = ask(answer)
    answer.set_exception(NotCoordinatorError())
    assert told(await reply.future).error_code == NotCoordinatorError().code


async def test_a_failure_ends_the_connection() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply = ask(answer)
    answer.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await reply.future


async def test_an_answer_that_is_given_up_ends_the_wait_for_it() -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply = ask(answer)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reply.future


@pytest.mark.parametrize("error", [None, NotCoordinatorError(), ZeroDivisionError()])
async def test_a_client_that_goes_away_takes_nothing_back(error: Exception | None) -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    reply = ask(answer)
    reply.future.cancel()
    await asyncio.sleep(0)
    assert not answer.cancelled()
    assert reply.work is answer
    if error is None:
        answer.set_result(HeartbeatResponse())
    else:
        answer.set_exception(error)
    await asyncio.sleep(0)
    assert reply.future.cancelled()
