"""The range assignor: every member gets a run of neighbouring partitions of each topic it subscribes to.

Members in order: those with an instance id first, by it, then the others by member id. Of each topic, the first members get
one partition more if the number does not divide evenly. So topics with equal partition counts and equal subscribers are
assigned alike (co-partitioning, for joins), and static members keep their place across restarts.
"""

from __future__ import annotations

from ottla.broker.coordinators.groups.modern.assignor import Assignment, GroupSpec


class RangeAssignor:
    """Implements `Assignor`."""

    name = "range"

    def assign(self, spec: GroupSpec) -> dict[str, Assignment]:
        """Return the ranges; what the members had before does not matter."""
        order = sorted(
            spec.members,
            key=lambda each: (spec.members[each].instance_id is None, spec.members[each].instance_id or each),
        )
        subscribers: dict[bytes, int] = {}
        for member in spec.members.values():
            for topic_id in member.topic_ids:
                subscribers[topic_id] = subscribers.get(topic_id, 0) + 1
        taken = dict.fromkeys(subscribers, 0)
        assigned_to = dict.fromkeys(subscribers, 0)
        targets: dict[str, Assignment] = {}
        for member_id in order:
            target = {}
            for topic_id in sorted(spec.members[member_id].topic_ids):
                quota, extra = divmod(spec.partition_counts[topic_id], subscribers[topic_id])
                count = quota + (assigned_to[topic_id] < extra)
                assigned_to[topic_id] += 1
                if count:
                    target[topic_id] = frozenset(range(taken[topic_id], taken[topic_id] + count))
                    taken[topic_id] += count
            targets[member_id] = target
        return targets
