"""EndsReporter: says in the tree where this broker's logs end, for elections that compare them.

When none of the replicas that have everything is left as it was (all machines lost power), the longest log of all of them
leads. Each broker writes where its own logs end to /brokers/ends/<id>, together with its broker epoch: what was written
under an earlier one says nothing, the log may be shorter now.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ottla.cluster.decisions.election import waits_for_ends
from ottla.cluster.image import BrokerEnds, LogEnd
from ottla.cluster.nodes import Change, EndsNode
from ottla.cluster.tree import Create, Operation, SetData
from ottla.types import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.image import ClusterImage, TopicImage
    from ottla.cluster.registration import Registration

logger = logging.getLogger(__name__)


class EndsReporter:
    """Reports the ends of this broker's logs.

    Args:
        log_end: where the log of a partition ends; None if it is not here or not readable.
    """

    def __init__(
        self, log: ChangeLog, registration: Registration, log_end: Callable[[TopicPartition], LogEnd | None]
    ) -> None:
        self._log = log
        self._registration = registration
        self._log_end = log_end
        self._said = BrokerEnds(broker_epoch=-1, ends={})

    async def report(self, image: ClusterImage, partitions: Iterable[tuple[TopicImage, int]]) -> None:
        """Write the ends of those of these logs that elections wait for, if they are not written yet under this epoch.

        Raises:
            TreeError: this broker has been registered anew.
            TreeUnavailableError: the tree cannot be reached.
        """
        node_id, epoch = self._registration.node_id, self._registration.epoch
        me = image.brokers.get(node_id)
        if me is None or me.broker_epoch != epoch:
            return
        said = self._said.ends if self._said.broker_epoch == epoch else {}
        ends = dict(said)
        for topic, index in partitions:
            if (topic.topic_id, index) not in ends and waits_for_ends(image, topic, index, node_id):
                end = self._log_end(TopicPartition(topic.name, index))
                if end is not None:
                    ends[topic.topic_id, index] = end
        if len(ends) == len(said):
            return
        tree, path = self._log.tree, EndsNode.path(node_id)
        report = BrokerEnds(broker_epoch=epoch, ends=ends)
        node = (await tree.get_many([path]))[0]
        data = EndsNode.encode(report)
        write: Operation = Create(path, data) if node is None else SetData(path, data, node.stat.version)
        await self._log.commit([write], Change(brokers=True), fence=self._registration.fence(), tree=tree)
        self._said = report
        logger.info("%d partitions wait for all their replicas; where the logs here end is in the tree", len(ends))
