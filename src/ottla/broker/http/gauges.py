"""Single numbers about the process, for `/metrics`: processor, memory, open files, connections made and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.observability.process import cpu_seconds, open_descriptors, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ottla.observability.loop_monitor import LoopMonitor


def process_gauges(monitor: LoopMonitor, descriptor_limit: int | None) -> Iterator[tuple[str, str, float]]:
    """Return name, help text and value of each; what the system does not say is left out."""
    yield (
        "kafka_server_kafkarequesthandlerpool_requesthandleravgidlepercent_oneminuterate",
        "Share of one processor left unused over the last minute, 0 to 1.",
        monitor.idle_share,
    )
    if descriptor_limit is not None:
        yield "process_max_fds", "Files and sockets this process may have open.", descriptor_limit
    descriptors = open_descriptors()
    if descriptors is not None:
        yield "process_open_fds", "Files and sockets that are open.", descriptors
    resident, cpu = resident_bytes(), cpu_seconds()
    if resident is not None:
        yield "process_resident_memory_bytes", "Resident memory.", resident
    if cpu is not None:
        yield "ottla_process_cpu_seconds", "Processor time used so far, user and system.", cpu
    yield (
        "kafka_server_socketservermetrics_connection_creation_rate",
        "New connections per second over the last minute.",
        monitor.connection_creation_rate,
    )
    yield (
        "kafka_server_socketservermetrics_connection_close_rate",
        "Ended connections per second over the last minute.",
        monitor.connection_close_rate,
    )
