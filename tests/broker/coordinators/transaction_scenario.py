"""A small interpreter for transcripts of transactions (tests/scenarios/transactions/*.txt).

A transcript is made of commands (`> ...`), each followed by what must come of it. Lines that begin with `#` are prose.
`p1`, `p2` are producer ids in the order of their making.

    init ID [timeout=60s] [as=PID/EPOCH]         add ID PID/EPOCH TOPIC-P... [v2]
    verify ID PID/EPOCH TOPIC-P...               commit ID PID/EPOCH [v1]      abort ID PID/EPOCH [v1]
    describe ID                                  age ID EPOCH (as if so many epochs had been used)
    markers (asked for and not written yet)      complete ID
    advance 3s      hold | release      fail CODE [written]      reload      records
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from tests.broker.coordinators.memory_log import MemoryCoordinatorLog
from tests.broker.coordinators.scenario import milliseconds, parse

from ottla.broker.coordinators.runtime import CoordinatorRuntime
from ottla.broker.coordinators.shard import Result
from ottla.broker.coordinators.transactions import records
from ottla.broker.coordinators.transactions.config import TransactionConfig
from ottla.broker.coordinators.transactions.coordinator import Identity, Markers, TransactionCoordinator
from ottla.broker.coordinators.transactions.state import TransactionState
from ottla.errors import ErrorCode, KafkaError, error_for
from ottla.protocol.messages.transaction_records import TransactionLogKey, TransactionLogValue
from ottla.testing.virtual_loop import VirtualClock, VirtualLoop, run_virtual
from ottla.types import TRANSACTION_STATE_TOPIC, TopicPartition

Operation = Callable[[TransactionCoordinator, int], Result[Any]]


class TransactionScenario:
    """Runs the commands of one transcript."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.log = MemoryCoordinatorLog()
        self.output: list[str] = []
        self.markers: dict[str, Markers] = {}
        self.next_id = 0
        self.shown_records = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.runtime: CoordinatorRuntime[TransactionCoordinator] = CoordinatorRuntime(
            topic=TRANSACTION_STATE_TOPIC,
            log=self.log,
            shard_factory=lambda partition, timeline, timers: TransactionCoordinator(
                partition,
                timeline,
                timers,
                config=TransactionConfig(),
                send_markers=lambda _partition, markers: self.markers.update({markers.transactional_id: markers}),
                take_producer_id=self.take_producer_id,
            ),
            partition_count=lambda: 1,
            clock=VirtualClock(loop),
        )
        self.runtime.start()
        self.runtime.on_leader(0, 0)

    def take_producer_id(self) -> int:
        self.next_id += 1
        return self.next_id

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def run(self, line: str) -> list[str]:
        command, *words = line.split()
        await getattr(self, "do_" + command)(*words)
        await self.settle()
        output, self.output = self.output, []
        return output

    def write(self, name: str, operation: Operation) -> None:
        async def wait() -> None:
            try:
                answer = await self.runtime.write(0, operation)
            except KafkaError as error:
                self.output.append(f"{name}: {error.code.name}")
                return
            text = ErrorCode.NONE.name
            if isinstance(answer, Identity):
                text = answer.error_code.name
                if answer.producer_id >= 0:
                    text += f" p{answer.producer_id}/{answer.producer_epoch}"
            self.output.append(f"{name}: {text}")

        task = asyncio.ensure_future(wait())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def do_init(self, transactional_id: str, *options: str) -> None:
        settings = dict(option.split("=") for option in options)
        expected = identity(settings["as"]) if "as" in settings else None
        timeout_ms = milliseconds(settings.get("timeout", "60s"))
        self.write("init", lambda shard, now: shard.init_producer_id(transactional_id, timeout_ms, expected, now))

    async def do_add(self, transactional_id: str, producer: str, *words: str) -> None:
        version = 2 if "v2" in words else 0
        topic_partitions = [topic_partition(word) for word in words if word != "v2"]
        self.write(
            "add",
            lambda shard, now: shard.add_partitions(
                transactional_id, *identity(producer), topic_partitions, version, now
            ),
        )

    async def do_verify(self, transactional_id: str, producer: str, *words: str) -> None:
        topic_partitions = [topic_partition(word) for word in words]
        try:
            codes = self.runtime.run(
                0, lambda shard, _now: shard.verify_partitions(transactional_id, *identity(producer), topic_partitions)
            )
        except KafkaError as error:
            codes = [error.code]
        self.output.append(f"verify: {' '.join(code.name for code in codes)}")

    async def do_commit(self, transactional_id: str, producer: str, *options: str) -> None:
        self.end("commit", transactional_id, producer, 0 if "v1" in options else 2)

    async def do_abort(self, transactional_id: str, producer: str, *options: str) -> None:
        self.end("abort", transactional_id, producer, 0 if "v1" in options else 2)

    def end(self, name: str, transactional_id: str, producer: str, version: int) -> None:
        self.write(
            name,
            lambda shard, now: shard.end_transaction(
                transactional_id, *identity(producer), name == "commit", version, now
            ),
        )

    async def do_complete(self, transactional_id: str) -> None:
        markers = self.markers.pop(transactional_id)
        self.write("complete", lambda shard, now: shard.complete(markers, now))

    async def do_markers(self) -> None:
        for markers in self.markers.values():
            topic_partitions = " ".join(str(each) for each in markers.partitions)
            kind = "commit" if markers.commit else "abort"
            self.output.append(
                f"markers: {kind} {markers.transactional_id} p{markers.producer_id}/{markers.producer_epoch} "
                f"[{topic_partitions}]"
            )

    async def do_describe(self, transactional_id: str) -> None:
        found = self.runtime.read(0, lambda shard: shard.describe(transactional_id))
        if found is None:
            self.output.append(f"{transactional_id}: unknown")
            return
        topic_partitions = " ".join(str(each) for each in sorted(found.partitions))
        self.output.append(
            f"{transactional_id}: {found.state.text} p{found.producer_id}/{found.producer_epoch} [{topic_partitions}]"
        )

    async def do_age(self, transactional_id: str, epoch: str) -> None:
        def operation(shard: TransactionCoordinator, now_ms: int) -> Result[None]:
            known = shard.transactions[transactional_id]
            return Result(None, [records.transaction(known.with_epoch(int(epoch), -1, known.timeout_ms, now_ms), 2)])

        self.write("age", operation)

    async def do_advance(self, time: str) -> None:
        await asyncio.sleep(milliseconds(time) / 1000)

    async def do_hold(self) -> None:
        self.log.hold = True

    async def do_release(self) -> None:
        self.log.hold = False
        self.log.release()

    async def do_fail(self, code: str, *options: str) -> None:
        self.log.failures.append((error_for(ErrorCode[code]), "written" in options))

    async def do_reload(self) -> None:
        self.markers.clear()
        self.runtime.on_resign(0)
        self.runtime.on_leader(0, 1)

    async def do_records(self) -> None:
        written = self.log.records(0)
        for record in written[self.shown_records :]:
            assert record.key is not None
            decoded = records.decode(record.key, record.value)
            assert decoded is not None
            assert isinstance(decoded.key, TransactionLogKey)
            value = decoded.value
            text = "deleted"
            if isinstance(value, TransactionLogValue):
                state = TransactionState(value.transaction_status).text
                text = f"{state} p{value.producer_id}/{value.producer_epoch}"
                if value.next_producer_id >= 0:
                    text += f" then p{value.next_producer_id}"
            self.output.append(f"record: {decoded.key.transactional_id} {text}")
        self.shown_records = len(written)


def identity(text: str) -> tuple[int, int]:
    """Return what `p1/0` means."""
    match = re.fullmatch(r"p(\d+)/(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2])


def topic_partition(text: str) -> TopicPartition:
    """Return what `t-0` means."""
    topic, _, index = text.rpartition("-")
    return TopicPartition(topic, int(index))


def play(text: str) -> str:
    """Run a transcript; return it with what really came of each command."""
    blocks, epilogue = parse(text)

    async def run(loop: VirtualLoop) -> str:
        loop.time_limit = 10_000_000
        scenario = TransactionScenario(loop)
        await scenario.settle()
        lines: list[str] = []
        for prose, command, _ in blocks:
            lines += [*prose, f"> {command}", *await scenario.run(command)]
        await scenario.runtime.stop()
        await scenario.settle()
        return "\n".join([*lines, *epilogue]) + "\n"

    result, _ = run_virtual(1, run)
    return result
