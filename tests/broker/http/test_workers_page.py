"""One page of metrics made of the pages of all workers of a machine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ottla.broker.http import workers_page as rules
from ottla.broker.http.workers import Workers
from ottla.broker.http.workers_page import LARGEST, SUMMED, workers_page
from ottla.network.http import HttpConversation, HttpResponse, HttpSite, LaterResponse

FIRST = b"""# HELP kafka_server_brokertopicmetrics_bytesinpersec Bytes appended.
# TYPE kafka_server_brokertopicmetrics_bytesinpersec counter
kafka_server_brokertopicmetrics_bytesinpersec{topic="a b"} 10
kafka_server_brokertopicmetrics_bytesinpersec 10
# HELP process_resident_memory_bytes Resident memory.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 100
# HELP kafka_brokers Number of live brokers.
# TYPE kafka_brokers gauge
kafka_brokers 2
# HELP ottla_uptime_seconds Time.
# TYPE ottla_uptime_seconds gauge
ottla_uptime_seconds 1.5
# HELP lag_seconds Lag.
# TYPE lag_seconds histogram
lag_seconds_bucket{le="0.1"} 1
lag_seconds_bucket{le="+Inf"} 2
lag_seconds_sum 0.1
lag_seconds_count 2
# HELP timems Time.
# TYPE timems summary
timems{request="Fetch",quantile="0.5"} 3.0
timems_sum{request="Fetch"} 6.5
timems_count{request="Fetch"} 2
"""
SECOND = b"""# HELP kafka_server_brokertopicmetrics_bytesinpersec Bytes appended.
# TYPE kafka_server_brokertopicmetrics_bytesinpersec counter
kafka_server_brokertopicmetrics_bytesinpersec{topic="b"} 1
kafka_server_brokertopicmetrics_bytesinpersec 1
# HELP process_resident_memory_bytes Resident memory.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 50
# HELP kafka_brokers Number of live brokers.
# TYPE kafka_brokers gauge
kafka_brokers 2
# HELP ottla_uptime_seconds Time.
# TYPE ottla_uptime_seconds gauge
ottla_uptime_seconds 2.5
# HELP lag_seconds Lag.
# TYPE lag_seconds histogram
lag_seconds_bucket{le="0.1"} 4
lag_seconds_bucket{le="+Inf"} 4
lag_seconds_sum 0.2
lag_seconds_count 4
# HELP timems Time.
# TYPE timems summary
timems{request="Fetch",quantile="0.5"} 4.0
timems_sum{request="Fetch"} 4.5
timems_count{request="Fetch"} 1
# HELP kafka_log_log_size Bytes.
# TYPE kafka_log_log_size gauge
kafka_log_log_size{partition="0",topic="b"} 7
"""


def samples(pages: dict[int, bytes]) -> dict[str, float]:
    text = b"".join(workers_page(pages)).decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_histograms_and_what_a_machine_has_are_added_up() -> None:
    found = samples({1: FIRST, 2: SECOND})
    assert found["kafka_server_brokertopicmetrics_bytesinpersec_total[]"] == 11
    assert found["kafka_server_brokertopicmetrics_bytesinpersec_total[('topic', 'a b')]"] == 10
    assert found["kafka_server_brokertopicmetrics_bytesinpersec_total[('topic', 'b')]"] == 1
    assert found["process_resident_memory_bytes[]"] == 150
    assert found["lag_seconds_bucket[('le', '0.1')]"] == 5
    assert found["lag_seconds_bucket[('le', '+Inf')]"] == 6
    assert found["lag_seconds_sum[]"] == 0.3
    assert found["timems_sum[('request', 'Fetch')]"] == 11
    assert found["timems_count[('request', 'Fetch')]"] == 3
    assert found["kafka_log_log_size[('partition', '0'), ('topic', 'b')]"] == 7
    assert found["ottla_workers_summed[]"] == 2


def test_what_cannot_be_added_is_there_for_each_worker_and_what_all_know_once() -> None:
    found = samples({1: FIRST, 2: SECOND})
    assert found["kafka_brokers[]"] == 2
    assert found["ottla_uptime_seconds[('broker', '1')]"] == 1.5
    assert found["ottla_uptime_seconds[('broker', '2')]"] == 2.5
    assert found["timems[('broker', '1'), ('quantile', '0.5'), ('request', 'Fetch')]"] == 3
    assert found["timems[('broker', '2'), ('quantile', '0.5'), ('request', 'Fetch')]"] == 4


def test_a_long_page_is_made_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "SAMPLES_PER_STEP", 10)
    lines = b"".join(b'n{p="%d"} 1\n' % number for number in range(100))
    page = b"# HELP n N.\n# TYPE n counter\n" + lines
    steps = list(workers_page({1: page, 2: page}))
    assert steps.count(b"") >= 20
    assert b"".join(steps).count(b" 2\n") == 101  # the number of workers as well


def test_no_gauge_has_two_rules() -> None:
    for one in SUMMED:
        for other in LARGEST:
            shorter, longer = sorted((one, other), key=lambda name: len(name.rstrip("*")))
            assert not longer.rstrip("*").startswith(shorter.rstrip("*")) or one == (
                "kafka_controller_kafkacontroller_activecontrollercount"
            )


def make(directory: Path, number: int, page: bytes, others: list[int]) -> Workers:
    def steps() -> Iterator[bytes]:
        yield page
        yield b""

    return Workers(str(directory), number, page=steps, others=lambda: others)


async def ask(workers: Workers) -> HttpResponse:
    found = workers.handler(lambda path: HttpResponse(body=path.encode()))("/metrics")
    assert isinstance(found, LaterResponse)
    known = asyncio.Event()
    found.wake = known.set
    async with asyncio.timeout(30):
        await known.wait()
    assert found.response is not None
    return found.response


def test_a_worker_asks_the_others_for_their_pages() -> None:
    """And a page that one of them does not give is not made: its counters would seem to have gone back."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as name:
            first, second = (make(Path(name), number, page, [1, 2]) for number, page in ((1, FIRST), (2, SECOND)))
            await first.start()
            await second.start()
            for one in (first, second):
                found = await ask(one)
                assert found.status == 200
                assert not isinstance(found.body, bytes)
                assert b"process_resident_memory_bytes 150\n" in b"".join(found.body)
            assert (Path(name) / "2.sock").stat().st_mode & 0o777 == 0o600
            await second.stop()
            gone = await ask(first)
            assert gone.status == 503
            assert isinstance(gone.body, bytes)
            assert gone.body.startswith(b"Worker 2 does not answer")
            await first.stop()

    asyncio.run(main())


def test_an_answer_is_waited_for() -> None:
    later = LaterResponse()
    site = HttpSite(handler=lambda path: HttpResponse(body=b"own"), handlers={9092: lambda path: later})
    shared, own = (HttpConversation(site, "127.0.0.1", port, 0.0) for port in (9092, 9093))
    woken: list[int] = []
    shared.wake = lambda: woken.append(1)
    for one in (shared, own):
        one.receive(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    assert (own.step(0.0) or b"").endswith(b"own")
    assert shared.step(0.0) is None
    assert shared.step(0.0) is None
    later.resolve(HttpResponse(body=b"all"))
    assert woken == [1]
    assert (shared.step(1.0) or b"").endswith(b"all")
    assert (shared.step(1.0) or b"").endswith(b"all")  # the second request finds it known
    assert shared.step(1.0) is None


def test_nobody_waits_for_an_answer_any_more() -> None:
    later = LaterResponse()
    conversation = HttpConversation(HttpSite(handler=lambda path: later), "127.0.0.1", 9092, 0.0)
    conversation.wake = lambda: pytest.fail("the client has gone")
    conversation.receive(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert conversation.step(0.0) is None
    conversation.abandon()
    later.resolve(HttpResponse(body=b"all"))
    assert conversation.step(0.0) is None
