"""Why a connection failed, and what to do about it: what listens there instead of Kafka?

A broker's listener that expects TLS closes a plain connection without a word, and so does ZooKeeper. So two more connections
are opened, briefly: one greets in TLS, one asks the question that ZooKeeper answers.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from ottla.errors import RemoteProtocolError
from ottla.network.channel_errors import (
    AnswerTimeoutError,
    BrokerUnreachableError,
    ConnectionFailedError,
    NotKafkaError,
    TlsError,
)

#: Seconds for each question.
PATIENCE = 1.0
_ZOOKEEPER_PORTS: Final = (2181, 2182)

_TLS_ALERT, _TLS_HANDSHAKE = 0x15, 0x16


async def explain(
    error: OSError | RemoteProtocolError, host: str, port: int, *, tls: bool, heard: bytes
) -> ConnectionFailedError | AnswerTimeoutError:
    """Turn an error of the operating system, or an early end, into one that says what is wrong and what to do."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, AnswerTimeoutError):
        return error
    if isinstance(error, ConnectionFailedError | RemoteProtocolError):
        kind = first_bytes(heard)
        if kind is None and not tls:
            kind = await what_listens(host, port)
        if (found := _other_protocol(kind, address)) is not None:
            return found
        if isinstance(error, ConnectionFailedError):
            return error
        return NotKafkaError(f"{address} does not answer as a Kafka broker does: {error}.", address=address)
    if isinstance(error, socket.gaierror):
        return BrokerUnreachableError(
            f"The name {host} does not resolve to an address ({error.strerror}).",
            address=address,
            hint="Is it spelled right? A name of a container network is known inside that network only.",
        )
    if isinstance(error, ConnectionRefusedError) or _all_refused(error):
        return BrokerUnreachableError(
            f"Nothing listens on {address} (connection refused).",
            address=address,
            hint="Start a broker there with `ottla serve`, or correct the address.",
        )
    if type(error).__module__ == "ssl":
        return _tls_error(error, address)
    if tls and isinstance(error, ConnectionError) and await what_listens(host, port) != "tls":
        # A broker closes a connection whose first bytes are no length it would accept.
        return _tls_error(error, address)
    return BrokerUnreachableError(f"{address} cannot be reached: {error}.", address=address)


def _all_refused(error: OSError) -> bool:
    """asyncio joins the errors of several addresses into one whose text lists them."""
    return error.errno is None and "refused" in str(error)


def _other_protocol(kind: str | None, address: str) -> ConnectionFailedError | None:
    match kind:
        case "tls":
            return TlsError(
                f"{address} speaks TLS, this client does not.",
                address=address,
                hint="Pass ssl_context=ssl.create_default_context(), or the address of a plain listener.",
            )
        case "zookeeper":
            return NotKafkaError(
                f"{address} is ZooKeeper, not Kafka.",
                address=address,
                hint="Clients connect to a broker, by default on port 9092.",
            )
        case "http":
            return NotKafkaError(
                f"{address} is a web server, not Kafka.",
                address=address,
                hint="Brokers listen on port 9092 by default.",
            )
    return None


def _tls_error(error: OSError, address: str) -> TlsError:
    reason = str(getattr(error, "reason", "") or error)
    if getattr(error, "verify_message", None) or "CERTIFICATE" in reason:
        why = getattr(error, "verify_message", "") or reason
        return TlsError(
            f"The certificate of {address} is not accepted: {why}.",
            address=address,
            hint="Load its authority with ssl_context.load_verify_locations(), and connect by a name that it holds.",
        )
    return TlsError(
        f"{address} does not speak TLS as this client does ({reason}).",
        address=address,
        hint="Is it a plain listener? Then leave ssl_context out.",
    )


async def hint_of_silence(host: str, port: int, *, tls: bool) -> str:
    """Return what to do about a listener that accepts and says nothing, or "" if that is not known."""
    if port in _ZOOKEEPER_PORTS:
        return "That is ZooKeeper's port; brokers listen on 9092 by default."
    speaks_tls = await what_listens(host, port) == "tls"
    if not tls and speaks_tls:
        return "It speaks TLS: pass ssl_context=."
    if tls and not speaks_tls:
        return "It does not speak TLS: is it a plain listener? Then leave ssl_context out."
    return ""


def first_bytes(data: bytes) -> str | None:
    """Return which protocol an answer begins like: "tls", "http", "zookeeper" or None."""
    if len(data) >= 2 and data[0] in (_TLS_ALERT, _TLS_HANDSHAKE) and data[1] == 3:
        return "tls"
    if data.startswith(b"HTTP"):
        return "http"
    if data.startswith((b"Zookeeper version", b"imok", b"srvr is not", b"This ZooKeeper")):
        return "zookeeper"
    return None


async def what_listens(host: str, port: int) -> str | None:
    """Return "tls" or "zookeeper" if that is what answers at this address, else None. Takes two seconds at most."""
    for question in (_client_hello(host), b"srvr"):
        answer = await _ask(host, port, question)
        found = first_bytes(answer)
        if found in ("tls", "zookeeper"):
            return found
    return None


def _client_hello(host: str) -> bytes:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    name = host if any(letter.isalpha() for letter in host) and ":" not in host else "localhost"
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


async def _ask(host: str, port: int, question: bytes) -> bytes:
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(question)
            return await reader.read(64)
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()
