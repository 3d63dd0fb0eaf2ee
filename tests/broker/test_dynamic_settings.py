"""Settings of the broker that are changed while it runs: in force at once, and after a restart."""

from __future__ import annotations

from ottla.errors import ErrorCode
from ottla.protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from ottla.testing.simulation import SimulatedBroker
from ottla.testing.virtual_loop import VirtualLoop, run_virtual
from ottla.testing.wire import WireClient

BROKER = 4
SET, DELETE = 0, 1


async def alter(client: WireClient, node: str, operation: int, **values: str | None) -> None:
    request = IncrementalAlterConfigsRequest(
        resources=[
            AlterConfigsResource(
                resource_type=BROKER,
                resource_name=node,
                configs=[
                    AlterableConfig(name=name.replace("_", "."), config_operation=operation, value=value)
                    for name, value in values.items()
                ],
            )
        ]
    )
    answer = await client.ask(request, 1, IncrementalAlterConfigsResponse)
    assert answer.responses[0].error_code == ErrorCode.NONE, answer


def in_force(node: SimulatedBroker) -> tuple[int, int, int]:
    assert node.broker is not None
    return (
        node.broker.server.limits.connections_per_ip_max,
        node.broker.logs.settings.cleaner_backoff_ms,
        node.broker.logs.settings.producer_id_expiration_ms,
    )


def test_dynamic_broker_settings_hold_at_once_and_after_a_restart() -> None:
    async def story(loop: VirtualLoop) -> None:
        node = SimulatedBroker(loop)
        await node.start()
        before = in_force(node)
        client = await node.connect()
        await alter(client, "", SET, log_cleaner_backoff_ms="77", producer_id_expiration_ms="8888")
        await alter(client, "1", SET, max_connections_per_ip="99")
        assert in_force(node) == (99, 77, 8888)
        node.kill()
        await node.start()
        assert in_force(node) == (99, 77, 8888)
        client = await node.connect()
        await alter(client, "", DELETE, log_cleaner_backoff_ms=None, producer_id_expiration_ms=None)
        await alter(client, "1", DELETE, max_connections_per_ip=None)
        assert in_force(node) == before
        # What looks at the configuration later, as for a new topic, must not find what was taken back.
        assert node.broker is not None
        assert node.broker.config.max_connections_per_ip == before[0]
        await node.stop()

    run_virtual(1, story)
