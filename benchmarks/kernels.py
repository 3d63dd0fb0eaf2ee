"""What the record kernels cost: ns per record, compiled and plain, and what a produced batch costs as a whole.

Run with the package installed: `python benchmarks/kernels.py`. Best of several runs; one process does all, so differences
below a quarter mean nothing.
"""

from __future__ import annotations

import timeit
from array import array
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ottla.compiled import load_beside
from ottla.protocol.records import _records_plain, kernels
from ottla.protocol.records.builder import Record, build_batch
from ottla.protocol.records.checksum import crc32c
from ottla.storage.config import LogConfig
from ottla.storage.validation import validate_batch
from ottla.types import AppendOrigin, CompressionType

NOW = 1_700_000_000_000


def best_ns(function: Callable[[], Any], seconds: float = 0.15) -> float:
    """Return the nanoseconds of one call: the best of five runs."""
    timer = timeit.Timer(function)
    number = 1
    while timer.timeit(number) < seconds / 10:
        number *= 4
    return min(timer.repeat(5, number)) / number * 1e9


def records_of(count: int, value_size: int) -> list[Record]:
    return [
        Record(index, NOW + index // 10, b"key-%04d" % (index % 1000), bytes([65 + index % 26]) * value_size)
        for index in range(count)
    ]


def kernel_rows(module: ModuleType, count: int, value_size: int) -> dict[str, float]:
    """Return ns per record of each kernel."""
    records = records_of(count, value_size)
    body = bytes(_records_plain.encode_records(records, 0, NOW))
    batch = bytes(build_batch(records))
    slots = 4096
    table = array("q", bytes(24 * slots))
    module.index_keys(body, count, 0, 0, table, 0, slots // 2)
    calls: dict[str, Callable[[], Any]] = {
        "check_batch": lambda: module.check_batch(batch, crc32c),
        "check_records": lambda: module.check_records(body, count, NOW),
        "decode_records": lambda: module.decode_records(body, count, 0, NOW, None),
        "encode_records": lambda: module.encode_records(records, 0, NOW),
        "index_keys": lambda: module.index_keys(body, count, 0, 0, table, 1000, slots // 2),
        "filter_records": lambda: module.filter_records(body, count, 0, NOW, table, count, True),
    }
    return {name: best_ns(call) / count for name, call in calls.items()}


def main() -> None:
    print(f"kernels: {kernels.STATUS}\n")
    print("ns per record, 8-byte keys    records  value   compiled     plain    ratio")
    for count, value_size in ((1, 100), (150, 100), (10_000, 100), (10_000, 10)):
        plain = kernel_rows(_records_plain, count, value_size)
        module, _ = load_beside(kernels.__file__, "ottla.protocol.records", "_records_cy")
        compiled = kernel_rows(module, count, value_size) if module is not None else {}
        for name, ns in plain.items():
            fast = f"{compiled[name]:9.1f}" if compiled else "        -"
            ratio = f"{ns / compiled[name]:7.1f}" if compiled else "      -"
            print(f"{name:28} {count:8} {value_size:6}  {fast} {ns:9.1f}  {ratio}")
    print("\nvalidate_batch, the kernels in use    records   bytes        us   ns/record")
    for codec in CompressionType:
        for count, value_size in ((1, 100), (150, 100), (10_000, 90)):
            batch = bytes(build_batch(records_of(count, value_size), compression=codec))
            view = bytearray(batch)
            config = LogConfig(max_message_bytes=1 << 22)
            ns = best_ns(
                lambda view=view, config=config: validate_batch(  # type: ignore[misc]
                    view, config=config, origin=AppendOrigin.CLIENT, now_ms=NOW + 5000, api_version=12
                )
            )
            print(f"{codec.name.lower():36} {count:8} {len(batch):7} {ns / 1000:9.1f}  {ns / count:9.1f}")


if __name__ == "__main__":
    main()
