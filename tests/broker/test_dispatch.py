"""What dispatch makes of answers that come later, of the attributes of routes, of short cuts and of sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ottla.broker.context import PartialResult, RequestContext, Route, Session, ShortCut
from ottla.broker.dispatch import Dispatcher
from ottla.cluster.image import ClusterImage
from ottla.errors import NotCoordinatorError
from ottla.network.connection import PendingReply
from ottla.observability.metrics import BrokerMetrics
from ottla.protocol.api import SERVED, ApiKey, request_header_version
from ottla.protocol.codec import decode, encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse


class Connection:
    """As much of a connection as handlers see."""

    listener, peer_host, peer_port, local_host, local_port = "PLAINTEXT", "10.0.0.7", 40000, "", 0
    closing, session, on_closed = False, None, None


def heartbeat() -> memoryview:
    header = RequestHeader(request_api_key=ApiKey.HEARTBEAT, request_api_version=4, correlation_id=7, client_id="me")
    return memoryview(
        encode(header, request_header_version(ApiKey.HEARTBEAT, 4)) + encode(HeartbeatRequest(group_id="g"), 4)
    )


def dispatcher_with(route: Route) -> Dispatcher:
    """A dispatcher that answers every API by one route."""
    return Dispatcher(dict.fromkeys(SERVED, route), ClusterImage, 1, BrokerMetrics())


def ask(answer: Any, **attributes: Any) -> PendingReply:
    """Send a heartbeat to a handler that returns `answer`."""
    dispatcher = dispatcher_with(Route(lambda context, request: answer, **attributes))
    reply = dispatcher.handle(Connection(), heartbeat())  # type: ignore[arg-type]
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


async def waits_for(gate: asyncio.Event, ended: list[str]) -> HeartbeatResponse:
    try:
        await gate.wait()
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise
    ended.append("finished")
    return HeartbeatResponse()


@pytest.mark.parametrize("ends_with_connection", [True, False])
async def test_only_a_route_that_reads_is_cancelled_with_its_connection(ends_with_connection: bool) -> None:
    gate, ended = asyncio.Event(), list[str]()
    reply = ask(waits_for(gate, ended), ends_with_connection=ends_with_connection)
    await asyncio.sleep(0)
    reply.future.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.sleep(0)
    assert ended == ["cancelled" if ends_with_connection else "finished"]


@pytest.mark.parametrize(("keeps_order", "blocks"), [(None, True), (lambda _: False, True), (lambda _: True, False)])
async def test_the_next_request_overtakes_only_an_answer_whose_route_keeps_the_order(
    keeps_order: Any, blocks: bool
) -> None:
    gate, ended = asyncio.Event(), list[str]()
    gate.set()
    reply = ask(waits_for(gate, ended), keeps_order=keeps_order)
    assert reply.blocks_next is blocks
    await reply.future


async def test_a_short_cut_and_the_handler_see_the_session_of_their_connection() -> None:
    """1. ApiVersions names the software. 2. The short cut passes a partial result on. 3. Both saw the same session."""

    class Half(PartialResult):
        pass

    half, seen = Half(), list[Any]()

    def handle_frame(frame: memoryview, version: int, session: Session) -> PartialResult:
        seen.append(session)
        return half

    def finish(context: RequestContext, request: HeartbeatRequest, partial: Half) -> HeartbeatResponse:
        assert (request.group_id, partial) == ("g", half)
        seen.append(context.session)
        return HeartbeatResponse()

    def undone(context: RequestContext, request: HeartbeatRequest) -> None:
        raise AssertionError("half of it has been done already")

    dispatcher = dispatcher_with(Route(undone, short_cut=ShortCut(handle_frame, finish)))
    connection: Any = Connection()
    header = RequestHeader(request_api_key=ApiKey.API_VERSIONS, request_api_version=3, correlation_id=1, client_id="me")
    versions = ApiVersionsRequest(client_software_name="franz-go", client_software_version="1.20")
    dispatcher.handle(
        connection, memoryview(encode(header, request_header_version(ApiKey.API_VERSIONS, 3)) + encode(versions, 3))
    )
    assert isinstance(dispatcher.handle(connection, heartbeat()), list)
    session = seen[0]
    assert seen == [session, session]
    assert (session.listener, session.client_host, session.client_port) == ("PLAINTEXT", "10.0.0.7", 40000)
    assert (session.principal, session.software) == ("User:ANONYMOUS", ("franz-go", "1.20"))


async def test_a_session_ends_with_its_connection_once() -> None:
    dispatcher = dispatcher_with(Route(lambda context, request: HeartbeatResponse()))
    connection: Any = Connection()
    dispatcher.handle(connection, heartbeat())
    ended = []
    connection.session.call_at_end(lambda: ended.append("first"))
    connection.session.call_at_end(lambda: ended.append("second"))
    connection.on_closed()
    connection.on_closed()
    assert ended == ["first", "second"]
