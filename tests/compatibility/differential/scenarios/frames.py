"""Frames that are no requests, unknown keys and versions, cut-off and padded bodies, and ApiVersions itself."""

from __future__ import annotations

import struct

from tests.compatibility.differential.script import versions
from tests.compatibility.differential.wire import Wire, framed, request_header

from ottla.protocol.api import APIS, SERVED, ApiKey
from ottla.protocol.codec import encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.init_producer_id import InitProducerIdRequest

API_VERSIONS = ApiKey.API_VERSIONS


def api_versions(wire: Wire) -> None:
    named = ApiVersionsRequest(client_software_name="differ", client_software_version="1.0")
    for version in versions(API_VERSIONS):
        wire.ask("plain", named, version)
    for text in ("", "-differ", "differ-", "dif fer", "dïffer", "differ.1-x", "9", "a" * 300):
        for version in versions(API_VERSIONS, 3):
            named = ApiVersionsRequest(client_software_name=text, client_software_version="1.0")
            wire.ask(f"software name {text[:12]!r}", named, version)
            named = ApiVersionsRequest(client_software_name="differ", client_software_version=text)
            wire.ask(f"software version {text[:12]!r}", named, version)
    body = encode(ApiVersionsRequest(client_software_name="differ", client_software_version="1.0"), 3)
    for version in (99, 32_767):
        wire.ask_bytes(f"version {version}", API_VERSIONS, version, body, flexible=True, answer_version=0)
    wire.ask_bytes("version 99 without a body", API_VERSIONS, 99, b"", flexible=True, answer_version=0)
    wire.ask_bytes("version -1", API_VERSIONS, -1, b"", flexible=False, answer_version=0)
    wire.ask_bytes("null client id", API_VERSIONS, 0, b"", client_id=None)
    wire.ask_bytes("null client id, flexible", API_VERSIONS, 3, body, client_id=None)
    wire.ask_bytes("empty client id", API_VERSIONS, 0, b"", client_id="")
    wire.ask_bytes("long client id", API_VERSIONS, 0, b"", client_id="x" * 5_000)
    wire.ask_bytes("unknown tags in the body", API_VERSIONS, 3, body[:-1] + b"\x02\x05\x01x\x09\x02yz")
    wire.ask_bytes("a tag twice", API_VERSIONS, 3, body[:-1] + b"\x02\x05\x01x\x05\x01y")
    wire.ask_bytes("tags in descending order", API_VERSIONS, 3, body[:-1] + b"\x02\x09\x01x\x05\x01y")
    wire.ask_bytes("tag longer than the frame", API_VERSIONS, 3, body[:-1] + b"\x01\x05\x7fx")
    wire.ask_bytes("null name", API_VERSIONS, 3, b"\x00" + body[7:])
    wire.ask_bytes("name longer than the frame", API_VERSIONS, 3, b"\x7f" + body[1:])
    wire.ask_bytes("name of bad UTF-8", API_VERSIONS, 3, b"\x03\xff\xfe\x02a\x00")


def versions_at_the_edges(wire: Wire) -> None:
    for key, (low, high) in SERVED.items():
        if key == API_VERSIONS:
            continue
        name = APIS[key].name
        for version in {low - 1, -1, high + 1, 99, 32_767}:
            wire.ask_bytes(f"{name} version {version}", key, version, b"\0" * 40, flexible=version > low)
    for number in (-1, 4, 5, 6, 7, 95, 999, 32_767):
        wire.ask_bytes(f"key {number}", number, 0, b"", flexible=False)
        wire.ask_bytes(f"key {number}, some bytes", number, 0, b"\0" * 40, flexible=False)


def bodies_cut_and_padded(wire: Wire) -> None:
    producer = InitProducerIdRequest(transactional_id=None, transaction_timeout_ms=1_000)
    wire.settle("producer ids", lambda: wire.ask(None, producer, 4, on="aside").error_code == "NONE")
    for key in SERVED:
        name = APIS[key].name
        for version in {*versions(key)[:1], *versions(key)[-1:]}:
            request = APIS[key].request_class()()
            body = encode(request, version)
            if body:
                wire.ask_bytes(f"{name} without its last byte", key, version, body[:-1])
                wire.ask_bytes(f"{name} without a body", key, version, b"")
            wire.ask_bytes(f"{name} of 0xff", key, version, b"\xff" * 64)
            wire.ask_bytes(f"{name} of 0x7f", key, version, b"\x7f" * 64)


def no_requests_at_all(wire: Wire) -> None:
    wire.ask_frame("size 0", struct.pack(">i", 0))
    wire.ask_frame("size -1", struct.pack(">i", -1))
    wire.ask_frame("size beyond the limit", struct.pack(">i", 104_857_601) + b"x" * 100)
    wire.ask_frame("size of 2 GiB", struct.pack(">i", 2**31 - 1) + b"x" * 100)
    wire.ask_frame("one byte", framed(b"\0"))
    wire.ask_frame("seven bytes of a header", framed(request_header(18, 0, 1)[:7]))
    wire.ask_frame("client id longer than the frame", framed(struct.pack(">hhih", 18, 0, 1, 500) + b"abc"))
    wire.ask_frame("client id of length -5", framed(struct.pack(">hhih", 18, 0, 1, -5) + b"abc"))
    wire.ask_frame("zeros", bytes(64))
    wire.ask_frame("a TLS hello", bytes.fromhex("16030100c5010000c10303") + bytes(64))


SCENARIOS = [api_versions, versions_at_the_edges, bodies_cut_and_padded, no_requests_at_all]
