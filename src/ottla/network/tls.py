"""TLS of one accepted connection: what a `BrokerConnection` sees as its transport, over a plain one of asyncio.

Python's OpenSSL works here on two buffers in memory; asyncio's transport below moves what is in them. Why not asyncio's own
TLS: it makes the acceptor wait for handshakes, does not bear `set_write_buffer_limits(high=0)`, which tells us when the
kernel has taken everything, and costs more (received at 16 KB: 1.4-1.7 CPU s/GB against 1.3; sent at 16 KB: 2.3 against 1.5).

Until the handshake is done there is no connection to the rest of the broker: nothing that came is looked at by anything but
OpenSSL. Everything that goes out goes through OpenSSL; the socket below is not offered to anybody (`transport.plain_socket`).
Bytes that came encrypted go from the socket into a buffer that all connections share, from there, before anything else runs,
into OpenSSL's own, and decrypted into where the connection wants them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any, Protocol, cast

from ottla.network.client_hello import NO_COMMON_PROTOCOL, HelloReader
from ottla.network.strangers import HANDSHAKE_SECONDS
from ottla.security.tls_settings import ALPN_PROTOCOLS

if TYPE_CHECKING:
    from ottla.file_region import Buffer
    from ottla.network.connection import BrokerConnection

logger: logging.Logger = logging.getLogger(__name__)

RECORDS_PER_WRITE = 256 * 1024
"""Bytes given to OpenSSL at a time: sixteen records, joined for the socket."""

_PROTOCOLS = frozenset(name.encode() for name in ALPN_PROTOCOLS)


class TlsHost(Protocol):
    """What the TLS connections of one server share."""

    cipher_view: memoryview

    def handshaken(self, tls: TlsTransport) -> None:
        """The peer has done its part; the connection begins now."""

    def handshake_ended(self, tls: TlsTransport, reason: str) -> None:
        """The connection has ended before that; `reason` is "" where the peer just went away."""


class TlsTransport(asyncio.BufferedProtocol):
    """Below it asyncio's transport, above it a connection.

    Args:
        context: a server's context.
        ip: the peer's address.
    """

    def __init__(self, host: TlsHost, connection: BrokerConnection, context: ssl.SSLContext, ip: str) -> None:
        self._host = host
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        #: What the client has asked for (SNI); whether the certificate is for that name is not looked at here.
        self.server_name: str | None = None
        self._hello = HelloReader()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw: asyncio.Transport | None = None
        self._is_established = False
        self._is_paused = False
        self._is_closing = False
        self._reason = ""
        self._deadline: asyncio.TimerHandle | None = None
        self.ip = ip

    @property
    def has_begun(self) -> bool:
        """Whether `connection_lost` will be called, or has been."""
        return self._raw is not None or self._is_closing

    @property
    def connection(self) -> BrokerConnection:
        """The connection above."""
        return self._connection

    # -- what asyncio's transport calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the peer's first message, not for ever."""
        self._raw = cast(asyncio.Transport, transport)
        self._raw.set_write_buffer_limits(high=0)
        self._deadline = self._loop.call_later(
            HANDSHAKE_SECONDS, self.fail, f"no TLS handshake within {HANDSHAKE_SECONDS:g} s"
        )

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where encrypted bytes are received."""
        return self._host.cipher_view

    def buffer_updated(self, nbytes: int) -> None:
        """Take what came out of the shared buffer, and go on with it."""
        if not self._hello.is_done and not self._may_go_on(self._host.cipher_view[:nbytes]):
            return
        self._incoming.write(self._host.cipher_view[:nbytes])
        if self._is_closing:
            self._incoming.read()
            return
        if not self._is_established:
            self._handshake()
            if not self._is_established:
                return
        self._deliver()

    def eof_received(self) -> bool:
        """The peer has closed its side without saying so in TLS: cut off or impolite, it is gone."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection above, or the server where there was none yet."""
        self._cancel_deadline()
        self._raw = None
        self._is_closing = True
        if self._is_established:
            self._connection.connection_lost(exc)
        else:
            self._host.handshake_ended(self, self._reason)

    def pause_writing(self) -> None:
        if self._is_established:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        if self._is_established:
            self._connection.resume_writing()

    # -- handshake --------------------------------------------------------------------------------------------------

    def _may_go_on(self, data: memoryview) -> bool:
        """Look at the client's first message; refuse one that offers protocols of which none is spoken here (RFC 7301)."""
        hello = self._hello.feed(data)
        if hello is None or self._is_closing:
            return not self._is_closing
        self.server_name = hello.server_name
        if hello.protocols is None or _PROTOCOLS.intersection(hello.protocols):
            return True
        if self._raw is not None:
            self._raw.write(NO_COMMON_PROTOCOL)
        self.fail("offers protocols in TLS (ALPN) that are not spoken here")
        return False

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ssl.CertificateError, ValueError) as error:
            self._flush()  # the alert that says so to the peer
            self.fail(_why(error))
            return
        self._flush()
        self._cancel_deadline()
        alpn = self._tls.selected_alpn_protocol()
        if self._raw is None or self._is_closing:
            return
        self._is_established = True
        self._connection.alpn = alpn
        self._host.handshaken(self)
        self._connection.connection_made(cast(asyncio.BaseTransport, self))

    def fail(self, reason: str) -> None:
        """End the connection before it has begun."""
        if self._raw is not None and not self._is_closing and not self._is_established:
            self._reason = reason
            self._is_closing = True
            self._cancel_deadline()
            self._raw.close()
            if self._raw.get_write_buffer_size():
                self._raw.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    # -- bytes that come --------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand on what is complete; of records that are not there in whole OpenSSL keeps the beginning."""
        connection, read = self._connection, self._tls.read
        while not self._is_paused and not self._is_closing:
            room = connection.get_buffer(-1)
            filled, size = 0, len(room)
            ended: str | None = None
            while filled < size:
                try:
                    count = cast(int, read(size - filled, room[filled:]))
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLZeroReturnError:
                    ended = ""
                    break
                except ssl.SSLError as error:
                    ended = _why(error)
                    break
                if not count:
                    ended = ""
                    break
                filled += count
            if self._outgoing.pending:  # an answer of TLS itself: new keys, an alert
                self._flush()
            if filled:
                connection.buffer_updated(filled)
            if ended is not None:
                if ended:
                    connection.abort(ended)
                else:
                    self.close()
                return
            if filled < size:
                return

    def pause_reading(self) -> None:
        """Deliver nothing more, and receive nothing more."""
        self._is_paused = True
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, first with what has been received already."""
        if self._is_paused:
            self._is_paused = False
            if self._raw is not None and not self._is_closing:
                self._raw.resume_reading()
            self._loop.call_soon(self._deliver_rest)

    def _deliver_rest(self) -> None:
        if self._raw is not None and not self._is_paused and not self._is_closing:
            self._deliver()

    # -- bytes that go ----------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Encrypt and send."""
        if self._raw is None or self._is_closing:
            return
        size = len(data)
        try:
            if size <= RECORDS_PER_WRITE:
                self._tls.write(data)
                self._flush()
                return
            view = memoryview(data)
            for start in range(0, size, RECORDS_PER_WRITE):
                self._tls.write(view[start : start + RECORDS_PER_WRITE])
                self._flush()
        except ssl.SSLError as error:
            logger.debug("TLS takes nothing more for %s: %s", self.ip, error)
            self.abort()

    def _flush(self) -> None:
        if self._outgoing.pending and self._raw is not None:
            self._raw.write(self._outgoing.read())

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken yet."""
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The transport below tells when everything has gone, always."""

    # -- the end ----------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._is_closing or self._raw is None or self._raw.is_closing()

    @property
    def closing(self) -> bool:
        """As of a `BrokerConnection`."""
        return self.is_closing()

    def close(self) -> None:
        """Say goodbye in TLS, so that the peer can tell the end from a cut, and close when all of it has gone."""
        if self._raw is None or self._is_closing:
            return
        self._is_closing = True
        if self._is_established:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, OSError):  # it wants the peer's goodbye, for which we do not wait
                pass
            self._flush()
        self._raw.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._is_closing = True
        if self._raw is not None:
            self._raw.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See `transport.Transport`; the socket is not given away."""
        if name == "ssl_object":
            return self._tls
        if name == "peer_certificate":
            return self._tls.getpeercert(binary_form=True)
        if name == "server_name":
            return self.server_name
        if name in ("peername", "sockname") and self._raw is not None:
            return self._raw.get_extra_info(name, default)
        return default


def _why(error: Exception) -> str:
    """Return one sentence about a failure of TLS for the log; no byte of the peer's is in it."""
    reason = getattr(error, "reason", None)
    if reason == "HTTP_REQUEST":
        return "speaks plain HTTP to a TLS listener"
    if reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL", "HTTPS_PROXY_REQUEST"):
        return "speaks no TLS to a TLS listener"
    text = (reason or type(error).__name__).replace("_", " ").lower()
    verify = getattr(error, "verify_message", "")
    return f"TLS failed: {text}{f' ({verify})' if verify else ''}"
