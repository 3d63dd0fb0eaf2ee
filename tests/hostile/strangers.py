"""Clients that have not logged in, and what they try: mutated frames before and in logins, over TLS and plain, and silence.

    python -m tests.hostile.strangers --frames 1000000 --seed 1 [--state FILE]

starts a broker and a client that has logged in, and prints what became of the frames. With `--state` a run goes on where the
last one with this file stopped, until there are `--frames` in all, and the file has what is known so far. Visit i of a seed
is always the same.

A visit is one connection: some frames in order, of which the last ones are behind a step that is wrong and must not be looked
at. What counts as a frame is what the broker has looked at: those it answered, and the one on which it closed the connection.
Most connections end after one or two, and cost more than their frames. Those of the kind `questions` ask for ApiVersions with
a software name that is none, which a client may do again: they bring most of the frames, and are counted by themselves, too.
That nobody came in is checked by effect: no record in the topic that strangers write to, no topic, user or rule of theirs, no
answer to anything but the steps of a login, and no login but those of the calm client in the broker's own counts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random as dice
import signal
import ssl
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.hostile.mutations import Frames
from tests.hostile.strangers_broker import BAIT, PASSWORD, USER, GuardedBroker

from ottla.protocol.api import ApiKey, request_header_version
from ottla.protocol.codec import encode
from ottla.protocol.messages.api_versions import ApiVersionsRequest
from ottla.protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from ottla.protocol.messages.headers import RequestHeader
from ottla.protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from ottla.protocol.messages.sasl_authenticate import SaslAuthenticateRequest
from ottla.protocol.messages.sasl_handshake import SaslHandshakeRequest
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.schema import Message

#: Visits under way at a time, and connections that say nothing all along.
VISITS_AT_ONCE, SILENT = 24, 60
#: The broker has this long for the next answer, or the end, of a connection.
STALL_SECONDS = 5.0
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", "plain", "")
LOGIN_KEYS = {ApiKey.API_VERSIONS, ApiKey.SASL_HANDSHAKE, ApiKey.SASL_AUTHENTICATE}


class Visit(NamedTuple):
    """What one connection does.

    Attributes:
        listener: LOGIN, SECURE (TLS and logins) or CERTIFICATE (TLS with a client certificate, which strangers lack).
        kind: what is wrong with it.
        is_raw: its bytes go to the socket as they are, also where TLS is spoken.
        frames: in order.
        ends_early: it closes its side after them.
    """

    listener: str
    kind: str
    is_raw: bool
    frames: tuple[bytes, ...]
    ends_early: bool


def request(message: Message, version: int, correlation_id: int = 7) -> bytes:
    key = ApiKey(message.API_KEY)  # type: ignore[arg-type]
    header = RequestHeader(
        request_api_key=key, request_api_version=version, correlation_id=correlation_id, client_id="x"
    )
    body = encode(header, request_header_version(key, version)) + encode(message, version)
    return len(body).to_bytes(4, "big") + body


_NO_NAME = b"-" * 25
_QUESTION = request(ApiVersionsRequest(client_software_name=_NO_NAME.decode(), client_software_version="1"), 3)


def _wanted() -> tuple[bytes, ...]:
    """What strangers would like to have done."""
    batch = build_batch([Record(0, 1_700_000_000_000, None, b"a stranger was here")])
    data = TopicProduceData(name=BAIT, partition_data=[PartitionProduceData(index=0, records=bytes(batch))])
    topic = CreatableTopic(name="strangers", num_partitions=1, replication_factor=1)
    return (
        request(ProduceRequest(acks=1, timeout_ms=1000, topic_data=[data]), 9),
        request(CreateTopicsRequest(topics=[topic], timeout_ms=1000), 7),
    )


WANTED = _wanted()


def _changed(data: bytes, random: dice.Random) -> bytes:
    """Change some of it, but not how long it says it is."""
    body = bytearray(data)
    for _ in range(random.randint(1, 4)):
        way = random.randrange(4)
        at = random.randrange(len(body)) if body else 0
        if way == 0 and body:
            body[at] = random.randrange(256)
        elif way == 1:
            del body[at : at + random.randint(1, 8)]
        elif way == 2:
            body[at:at] = random.randbytes(random.randint(1, 16))
        elif body:
            body[at:] = body[at:] * random.randint(1, 4)
    return bytes(body)


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def _token(random: dice.Random) -> bytes:
    """A message of some mechanism, nearly right; never a right password."""
    said = random.choice(
        (
            f"\0{USER}\0wrong",
            f"{USER}\0{USER}\0{PASSWORD}x",
            f"{USER}x\0{USER}\0{PASSWORD}",
            f"\0{USER.upper()}\0{PASSWORD}",
            f"n,,n={USER},r=fyko+d2lbbFgONRv9qkxdawL",
            "n,,n=nobody,r=abc",
            f"n,a={USER},n={USER},r=abc,tokenauth=true",
            "c=biws,r=abcdef,p=AAAA",
            "n,,\x01auth=Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.\x01\x01",
            "",
        )
    ).encode()
    made = said if random.random() < 0.4 else _changed(said, random)
    return made if made.rpartition(b"\0")[2] != PASSWORD.encode() or made.count(b"\0") != 2 else b"x"


def visit(frames: Frames, seed: int, index: int) -> Visit:
    """Return visit `index` of a seed."""
    random = dice.Random(seed << 40 | index)
    listener = random.choices(("LOGIN", "SECURE", "CERTIFICATE"), (6, 3, 1))[0]
    is_raw = listener != "LOGIN" and random.random() < 0.6
    count = random.randint(1, 3)

    def mutated() -> list[bytes]:
        return [frames[index * 4 + number].data for number in range(count)]

    versions = request(ApiVersionsRequest(client_software_name="x", client_software_version="1"), 3)
    kind = random.choice(("request", "step", "token", "bare", "first bytes", "cut", "late request", "questions"))
    said: list[bytes]
    if listener == "CERTIFICATE" or (is_raw and random.random() < 0.7):
        kind = "TLS"
        hello = _hello()
        said = [hello if random.random() < 0.2 else _changed(hello, random), *(random.randbytes(40) for _ in range(2))]
        is_raw = True
    elif kind == "request":
        said = [*([versions] if random.random() < 0.3 else []), *mutated()]
    elif kind == "questions":
        said = [*_questions(random), *mutated()]
    elif kind == "first bytes":
        said = [random.randbytes(random.randint(1, 200)), *mutated()]
    else:
        version = 0 if kind == "bare" else random.choice((0, 1))
        shake = request(SaslHandshakeRequest(mechanism=random.choice(MECHANISMS)), version)
        if kind == "step":
            said = [_framed(_changed(shake[4:], random))]
        elif version == 0:
            said = [shake, *(_framed(_token(random)) for _ in range(2))]
        else:
            said = [
                shake,
                *(request(SaslAuthenticateRequest(auth_bytes=_token(random)), random.randint(0, 2)) for _ in range(2)),
            ]
        if kind == "token":
            said[-1] = _framed(_changed(said[-1][4:], random))
        elif kind == "late request":
            said[1:1] = mutated()
        elif kind == "cut":
            said[-1] = said[-1][: random.randrange(len(said[-1]))]
    return Visit(listener, kind, is_raw, (*said, *WANTED), kind == "cut" or random.random() < 0.2)


def _questions(random: dice.Random) -> list[bytes]:
    """Return requests for ApiVersions whose software name is none; here and there one is changed, which may end it."""
    found = []
    for _ in range(random.randint(20, 300)):
        name = f"-{random.randbytes(12).hex()}".encode()
        asked = bytearray(_QUESTION.replace(_NO_NAME, name))
        asked[8:12] = random.randbytes(4)  # the correlation id
        found.append(bytes(asked) if random.random() > 0.002 else _framed(_changed(bytes(asked[4:]), random)))
    return found


def _hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


class Strangers:
    """Makes visits; `tally` has what became of them."""

    def __init__(self, broker: GuardedBroker, seed: int) -> None:
        self._broker = broker
        self._seed = seed
        self._frames = Frames(broker.seeds, seed)
        self.tally: Counter[str] = Counter()

    async def run(self, start: int, frames: int) -> int:
        """Make visits from number `start` on until the broker has looked at so many frames; return the next number."""
        upcoming = iter(range(start, sys.maxsize))
        last, goal = start, self.tally["frames"] + frames

        async def work(number: int) -> None:
            nonlocal last
            while self.tally["frames"] < goal:
                index = next(upcoming)
                last = max(last, index)
                await self._make(
                    visit(self._frames, self._seed, index), f"127.0.{1 + number // 200}.{2 + number % 200}"
                )

        async with asyncio.TaskGroup() as group:
            silent = [group.create_task(self._say_nothing(number)) for number in range(SILENT)]
            workers = [group.create_task(work(number)) for number in range(VISITS_AT_ONCE)]
            await asyncio.gather(*workers)
            for task in silent:
                task.cancel()
        return last + 1

    async def _say_nothing(self, number: int) -> None:
        port = self._broker.ports[("LOGIN", "SECURE", "CERTIFICATE")[number % 3]]
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(f"127.0.9.{2 + number}", 0)
                )
            except OSError:
                await asyncio.sleep(0.1)
                continue
            try:
                if number % 2:
                    writer.write(b"\x00\x00" if number % 3 == 0 else b"\x16\x03")
                while await reader.read(4096):
                    pass
                self.tally["silent connections closed"] += 1
            except ConnectionError:
                pass
            finally:
                writer.transport.abort()

    async def _make(self, made: Visit, address: str) -> None:
        self.tally["visits"] += 1
        self.tally[f"visits: {made.kind}"] += 1
        context = None if made.listener == "LOGIN" or made.is_raw else self._broker.context
        try:
            async with asyncio.timeout(STALL_SECONDS):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._broker.ports[made.listener], local_addr=(address, 0), ssl=context
                )
        except (OSError, TimeoutError):  # pushed out by the other strangers
            self.tally["turned away"] += 1
            return
        answers = 0
        try:
            writer.write(b"".join(made.frames))
            if made.ends_early and writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(STALL_SECONDS):
                answers = await self._answers(made, reader)
            self.tally["closed"] += 1
        except TimeoutError:
            self.tally["held"] += 1
        except OSError:  # reset, failed in TLS, or gone before this side was closed
            self.tally["closed"] += 1
        finally:
            writer.transport.abort()
        self.tally["answers"] += answers
        self.tally["frames"] += answers + 1
        self.tally[f"frames: {made.kind}"] += answers + 1

    async def _answers(self, made: Visit, reader: asyncio.StreamReader) -> int:
        """Count the answers up to the end of the connection; none of them may be to what only users may do."""
        data = bytearray()
        with suppress(ConnectionError, ssl.SSLError):
            while piece := await reader.read(65536):
                data += piece
        assert b"a stranger was here" not in data
        if made.is_raw or data[:4] == b"HTTP":
            return 0
        count = position = 0
        while len(data) - position >= 8:
            size = int.from_bytes(data[position : position + 4], "big")
            assert 0 <= size < 100_000, f"an answer of {size} bytes to a stranger ({made.kind})"
            position += 4 + size
            count += 1
        # Frames behind the first one that is no step of a login have no answer; these were the last.
        assert count <= len(made.frames) - len(WANTED), f"{count} answers to {made}"
        return count


def run(frames: int, seed: int, state_file: Path | None = None, part: int = 20_000) -> dict[str, Any]:
    """Let the broker look at `frames` frames, in parts; return what is known at the end."""
    state: dict[str, Any] = {"seed": seed, "next": 0, "seconds": 0.0, "tally": {}, "rss_mib": []}
    if state_file is not None and state_file.exists():
        state = json.loads(state_file.read_text())
        assert state["seed"] == seed, f"{state_file} is of seed {state['seed']}"
    report: dict[str, Any] = {}
    with GuardedBroker() as broker:
        strangers = Strangers(broker, seed)
        strangers.tally.update(state["tally"])
        while strangers.tally["frames"] < frames:
            began = time.monotonic()
            wanted = min(part, frames - strangers.tally["frames"])
            state["next"] = asyncio.run(strangers.run(state["next"], wanted))
            report = broker.check()
            state["seconds"] += time.monotonic() - began
            state["tally"] = dict(strangers.tally)
            state["rss_mib"] = [*state["rss_mib"], report["rss_mib"]]
            if state_file is not None:
                state_file.write_text(json.dumps(state, indent=1))
                print(
                    f"{strangers.tally['frames']:>9} frames in {state['seconds']:.0f} s, RSS {report['rss_mib']} MiB",
                    file=sys.stderr,
                    flush=True,
                )
        ended = broker.finish()
    if state_file is not None:
        # What one broker counts ends with it: the file has a row for each that strangers came to.
        reached = strangers.tally["frames"]
        state["brokers"] = [*state.get("brokers", []), {"frames_in_all": reached, **report, **ended}]
        state_file.write_text(json.dumps(state, indent=1))
    return {**state, **report, **ended}


def main() -> None:
    parser = argparse.ArgumentParser(description="Strangers before a broker of their own")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before the end"))  # the broker ends with this process
    print(json.dumps(run(options.frames, options.seed, options.state), indent=1))


if __name__ == "__main__":
    main()
