"""Forwarding: what only the controller can do is passed on to it, with who asks (Kafka's Envelope, KIP-590).

The request travels in an Envelope with the client's principal and host; the controller answers as if the client had asked it.
A broker takes an Envelope only from a broker: on the listener that the sender has registered as that of its connections to
other brokers, and with the random text that its process wrote into the coordination tree when it registered. The listener is
the sender's because brokers that are moved to another one, one by one, differ in it for a while.
"""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING

from ottla.broker.context import Session
from ottla.errors import BrokerNotAvailableError, ErrorCode, RemoteProtocolError
from ottla.protocol.messages.envelope import EnvelopeRequest, EnvelopeResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ottla.broker.peers import Peers
    from ottla.cluster.image import ClusterImage

logger = logging.getLogger(__name__)

VERSION = 0
#: A thousand topics of a large cluster may take the controller longer than a client waits; it must not be asked twice.
TIMEOUT_SECONDS = 300.0


class Forwarding:
    """Passes requests on to the controller, and knows whose Envelopes are to be believed.

    Args:
        is_controller: whether this broker is the controller.
        process: the text of this broker's own registration.
        refresh: brings the own image up to date, so that a client that asks next sees what was done.
    """

    def __init__(
        self,
        peers: Peers,
        *,
        image: Callable[[], ClusterImage],
        is_controller: Callable[[], bool],
        process: str,
        refresh: Callable[[], Awaitable[object]],
    ) -> None:
        self._peers = peers
        self._image = image
        self._is_controller = is_controller
        self._process = process
        self._refresh = refresh

    def is_elsewhere(self) -> bool:
        """Return whether another broker is the controller, as far as is known."""
        controller_id = self._image().controller_id
        return not self._is_controller() and controller_id not in (-1, self._peers.node_id)

    async def forward(self, session: Session, frame: bytes) -> bytes | None:
        """Return the controller's answer to a request (header included, size not); None if there is none."""
        request = EnvelopeRequest(
            request_data=frame,
            request_principal=session.principal.encode(),
            client_host_address=session.client_host.encode(),
            broker_id=self._peers.node_id,
            process=self._process,
        )
        try:
            answer = await self._peers.ask(
                self._image().controller_id,
                request,
                EnvelopeResponse,
                version=VERSION,
                purpose="controller",
                timeout_s=TIMEOUT_SECONDS,
            )
        except BrokerNotAvailableError as error:
            logger.info("a request could not be passed on to the controller: %s", error)
            return None
        if answer.error_code or answer.response_data is None:
            logger.warning("the controller refused a request that was passed on: error %d", answer.error_code)
            return None
        await self._refresh()
        return answer.response_data

    def open_envelope(self, session: Session, request: EnvelopeRequest) -> Session | ErrorCode:
        """Return the session of the client that asked; or why the Envelope is not believed.

        Raises:
            RemoteProtocolError: it came on a listener for clients; the connection is to be closed.
        """
        brokers = self._image().brokers
        sender = brokers.get(request.broker_id)
        used = self._peers.listener if sender is None else sender.listener or self._peers.listener
        if session.listener != used:
            raise RemoteProtocolError(f"an Envelope came on the listener {session.listener}, which is for clients")
        if (
            sender is None
            or not sender.process
            or not hmac.compare_digest(sender.process.encode(), request.process.encode())
        ):
            return ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        asked = Session(
            listener=session.listener,
            client_host=request.client_host_address.decode(),
            local_host=session.local_host,
            local_port=session.local_port,
            security_protocol=session.security_protocol,
        )
        asked.principal = (request.request_principal or b"").decode()
        return asked
