"""Values of `replica.selector.class`: Kafka's two classes, by name."""

from __future__ import annotations

from typing import Final

RACK_AWARE: Final = "org.apache.kafka.common.replica.RackAwareReplicaSelector"
#: What Kafka does without a selector.
LEADER_ONLY: Final = "org.apache.kafka.common.replica.LeaderSelector"
