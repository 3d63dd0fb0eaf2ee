"""What streams groups are configured with: the broker's `group.streams.*`, and a group's own `streams.*` over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ottla.broker.config import BrokerConfig

INT_MAX: Final = 2**31 - 1
#: The only one of the broker's keys that can be changed while it runs.
ASSIGNMENT_INTERVAL_KEY: Final = "group.streams.assignment.interval.ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsConfig:
    """Times and numbers of a streams group; Kafka's keys (`group.streams.` or `streams.` in front) and defaults.

    Attributes:
        rack_aware_assignment_tags: client tags that members should have; the sticky assignor does not use them.
        bounds: lowest and highest value of what a group sets for itself, by attribute. They may be narrower than they
            were when the group set it: then the bound counts, as in Kafka.
    """

    session_timeout_ms: int = 45_000
    heartbeat_interval_ms: int = 5_000
    initial_rebalance_delay_ms: int = 3_000
    assignment_interval_ms: int = 1_000
    task_offset_interval_ms: int = 60_000
    acceptable_recovery_lag: int = 10_000
    num_standby_replicas: int = 0
    rack_aware_assignment_tags: str = ""
    max_size: int = INT_MAX
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @staticmethod
    def from_broker(config: BrokerConfig) -> StreamsConfig:
        """Return the streams groups' part of a broker's configuration."""
        return StreamsConfig(
            session_timeout_ms=config.group_streams_session_timeout_ms,
            heartbeat_interval_ms=config.group_streams_heartbeat_interval_ms,
            initial_rebalance_delay_ms=config.group_streams_initial_rebalance_delay_ms,
            assignment_interval_ms=config.group_streams_assignment_interval_ms,
            task_offset_interval_ms=config.group_streams_task_offset_interval_ms,
            acceptable_recovery_lag=config.group_streams_acceptable_recovery_lag,
            num_standby_replicas=config.group_streams_num_standby_replicas,
            rack_aware_assignment_tags=",".join(config.group_streams_rack_aware_assignment_tags),
            max_size=config.group_streams_max_size,
            bounds={
                "session_timeout_ms": (
                    config.group_streams_min_session_timeout_ms,
                    config.group_streams_max_session_timeout_ms,
                ),
                "heartbeat_interval_ms": (
                    config.group_streams_min_heartbeat_interval_ms,
                    config.group_streams_max_heartbeat_interval_ms,
                ),
                "assignment_interval_ms": (
                    config.group_streams_min_assignment_interval_ms,
                    config.group_streams_max_assignment_interval_ms,
                ),
                "task_offset_interval_ms": (config.group_streams_min_task_offset_interval_ms, INT_MAX),
                "num_standby_replicas": (0, config.group_streams_max_standby_replicas),
            },
        )

    def of_group(self, overrides: Mapping[str, str]) -> StreamsConfig:
        """Return this with what one group has set for itself; values were checked when they were set."""
        if not overrides:
            return self
        own: dict[str, int | str] = {}
        for key, name in _KEYS.items():
            if key in overrides:
                low, high = self.bounds.get(name, (0, INT_MAX))
                own[name] = min(max(int(overrides[key]), low), high)
        tags = overrides.get("streams.rack.aware.assignment.tags")
        if tags is not None:
            own["rack_aware_assignment_tags"] = ",".join(tag.strip() for tag in tags.split(",") if tag.strip())
        return replace(self, **own) if own else self  # type: ignore[arg-type]

    @property
    def assignment_configs(self) -> dict[str, str]:
        """What the assignment depends on: a change is a reason for a new one."""
        configs = {"num.standby.replicas": str(self.num_standby_replicas)}
        if self.rack_aware_assignment_tags:
            configs["rack.aware.assignment.tags"] = self.rack_aware_assignment_tags
        return configs


_KEYS: Final = {
    "streams.session.timeout.ms": "session_timeout_ms",
    "streams.heartbeat.interval.ms": "heartbeat_interval_ms",
    "streams.initial.rebalance.delay.ms": "initial_rebalance_delay_ms",
    "streams.assignment.interval.ms": "assignment_interval_ms",
    "streams.task.offset.interval.ms": "task_offset_interval_ms",
    "streams.acceptable.recovery.lag": "acceptable_recovery_lag",
    "streams.num.standby.replicas": "num_standby_replicas",
}
