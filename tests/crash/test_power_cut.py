"""Power cuts under load with flush.messages=1: what was acknowledged is there after the power is back.

The disk is ext4 on a loop device. Its shutdown ioctl drops everything that was not synced and fails every later write,
as pulling the plug does. Needs root. OTTLA_POWER_CUTS sets how many (default 50, about two minutes).
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.crash.test_kill import (
    PARTITIONS,
    SETTINGS,
    await_first_acknowledgement,
    create_topics,
    start_load,
    stop_load,
)
from tests.crash.verdict import Journal, complaints_about_compacted, complaints_about_log, read_journal, read_topic
from tests.support.broker_process import BrokerProcess

pytestmark = pytest.mark.crash

CUTS = int(os.environ.get("OTTLA_POWER_CUTS", "50"))
SEED = int(os.environ.get("OTTLA_CRASH_SEED", "1"))
SYNCED_AS_A_WHOLE = "fsyncs of several logs are made as one sync of their file system"
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2  # even the file system's own journal stays where it was last forced out


class LoopDisk:
    """An ext4 file system in a file, with a plug to pull."""

    def __init__(self, directory: Path, megabytes: int = 1_500) -> None:
        self.image, self.path = directory / "disk.img", directory / "disk"
        self.path.mkdir()
        with self.image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.path))

    def cut_power(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restore_power(self) -> None:
        _run("umount", str(self.path))
        self.mount()

    def close(self) -> None:
        subprocess.run(["umount", str(self.path)], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a loop device needs root")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    try:
        made = LoopDisk(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device can be mounted here: {error.stderr.decode(errors='replace').strip()}")
    try:
        yield made
    finally:
        made.close()


def stop(broker: BrokerProcess) -> None:
    """A power cut ends machine and disk in one moment, so the broker must not run on after it.

    Where it did, records were missing that it had acknowledged, on a busy machine: of an ext4 that is shut down while
    fdatasync is under way, fdatasync now and then returns 0 though nothing of it is there later (Linux 6.18: 18 of 360 files,
    with six threads that wrote and synced, and busy processors).
    """
    broker.signal(signal.SIGSTOP)


def cut_under_load(
    disk: LoopDisk, journal_path: Path, cuts: int, settings: dict[str, str]
) -> tuple[Journal, list[str]]:
    """Cut the power `cuts` times under load; what the load was promised, and what the logs lack of it."""
    dice = random.Random(SEED)
    broker = BrokerProcess({**SETTINGS, **settings}, data_dir=disk.path / "data")
    load = None
    try:
        broker.start()
        create_topics(broker)
        load = start_load(broker, journal_path)
        await_first_acknowledgement(journal_path)
        for _ in range(cuts):
            time.sleep(dice.uniform(0.1, 1.0))
            stop(broker)
            disk.cut_power()
            broker.kill()
            disk.restore_power()
            broker.start()
            assert load.poll() is None, "the load ended"
        stop_load(load)
        journal = read_journal(journal_path)
        log, compacted = (read_topic(broker.address, topic, PARTITIONS) for topic in ("crash-log", "crash-compact"))
        lost = complaints_about_log(journal, log, "crash-log")
        lost += complaints_about_compacted(journal, compacted, "crash-compact")
        broker.terminate()
    finally:
        if load is not None:
            load.kill()
        broker.close()
    shared = broker.output.count(SYNCED_AS_A_WHOLE)
    print(
        f"\n{cuts} power cuts, {journal.count} records acknowledged, {len(lost)} complaints, {shared} lives shared fsyncs"
    )
    print(*lost[:20], sep="\n")
    if "log.flush.interval.messages" in settings:
        assert shared > cuts // 4, "fsyncs of several logs were hardly ever made as one"
    return journal, lost


def test_nothing_acknowledged_is_lost_by_a_power_cut(disk: LoopDisk, tmp_path: Path) -> None:
    journal, lost = cut_under_load(disk, tmp_path / "journal.txt", CUTS, {"log.flush.interval.messages": "1"})
    assert journal.done
    assert journal.failures == []
    assert journal.count > 20 * CUTS, "there was hardly any load"
    assert lost == []


def test_the_cut_is_a_real_one(disk: LoopDisk, tmp_path: Path) -> None:
    """With Kafka's default, no fsync before the acknowledgement, records are lost: the harness would see it."""
    journal, lost = cut_under_load(disk, tmp_path / "journal.txt", 3, {})
    assert journal.count > 0
    assert lost != []
