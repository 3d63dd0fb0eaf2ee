"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Timed asserts are not tests: a busy machine must not fail a property. The default run tries the same examples everywhere,
# so that it fails for what a change did; `make test-soak` looks for new ones (--hypothesis-profile=explore).
settings.register_profile("ottla", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("ottla"), derandomize=False)
settings.load_profile("ottla")

# A job that a shell starts in the background ignores SIGINT, and so does what it starts: tests that interrupt themselves or
# their children would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What takes most of the default run; `make test-fast` leaves it out.
SLOW = (
    "tests/simulation/",
    "tests/hostile/",
    "tests/compatibility/",
    "tests/planted/",
    "tests/test_install.py",
    "tests/test_examples.py",
    "tests/broker/coordinators/",
    "tests/broker/share/test_share_simulation.py",
    "tests/broker/test_old_formats.py",
    "tests/client/core/",
    "tests/client/test_admin.py",
    "tests/testing/test_local_broker.py",
    "tests/testing/test_pytest_plugin.py",
    "tests/client/test_consumer.py",
    "tests/client/test_producer.py",
    "tests/client/test_producer_processes.py",
    "tests/client/test_producer_transactions.py",
    "tests/client/test_docs.py",
    "tests/cli/",
    "tests/connect/library/",
    "tests/connect/test_standalone.py",
    "tests/cluster/test_histories.py",
    "tests/cluster/test_leadership.py",
    "tests/network/test_connection.py",
    "tests/protocol/records/",
    "tests/storage/test_any_byte.py",
    "tests/storage/test_compaction.py",
    "tests/storage/test_log_model.py",
    "tests/storage/test_old_format_damage.py",
    "tests/storage/test_repair.py",
)
ROOT = Path(__file__).parent.parent


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts: more than there are cores, because many tests wait for other processes."""
    return (os.cpu_count() or 1) * 3 // 2 + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what lies under one of `SLOW`."""
    for item in items:
        if str(item.path.relative_to(ROOT)).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
