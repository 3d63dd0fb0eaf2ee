"""The consumer's core without I/O: partitions by hand, of topics, or of a group; positions, fetching, commits.

Puts the parts together; each is a module of its own: `fetching`, `offset_queries` (where partitions begin),
`truncation`, `group_client`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ottla.client._core.client import ClientMachine
from ottla.client._core.fetching import Fetcher, FetchSettings
from ottla.client._core.group import GroupSettings
from ottla.client._core.group_client import GroupClient
from ottla.client._core.offset_queries import OffsetQueries, Placing, Query
from ottla.client._core.partitions import COMMITTED, Chunk, PartitionState
from ottla.client._core.truncation import Validation
from ottla.types import EARLIEST, TopicPartition

if TYPE_CHECKING:
    from random import Random


class ConsumerMachine(ClientMachine):
    """One consumer.

    Attributes:
        partitions: what is read, by name.
        group: its group, or None.
        on_step: called, with the lock held, when the group wants something of the caller.
    """

    def __init__(
        self,
        settings: FetchSettings,
        bootstrap: Sequence[tuple[str, int]],
        random: Random,
        wall_ms: Callable[[], int],
        group: GroupSettings | None = None,
        *,
        commit_interval_ms: float | None = None,
    ) -> None:
        super().__init__(settings, bootstrap, random)
        self.settings = settings
        self.fetcher: Fetcher = Fetcher(self, settings, wall_ms)
        self.queries: OffsetQueries = OffsetQueries(self, settings.isolation)
        self.partitions: dict[TopicPartition, PartitionState] = self.fetcher.partitions
        self.group: GroupClient | None = None
        self.on_step: Callable[[], object] | None = None
        self._topics: dict[str, None] = {}
        self._seen: dict[str, int] = {}
        if group is not None:
            self.group = GroupClient(self, group, self.fetcher, commit_interval_ms=commit_interval_ms)
            self.parts.append(self.group)
        self.parts += [
            Placing(self, self.fetcher, self.queries),
            Validation(self, self.fetcher),
            self.fetcher,
            self.queries,
        ]

    # -- what is read -----------------------------------------------------------------------------------------------

    def follow(self, topics: Iterable[str], now_ms: float) -> None:
        """Read all partitions of these topics, those that come later from their beginning."""
        for topic in topics:
            self._topics[topic] = None
            self.metadata.use(topic, now_ms)
        self._take_partitions()

    def assign(self, partitions: Iterable[TopicPartition], now_ms: float) -> None:
        """Read exactly these partitions; those that were read before keep their positions."""
        wanted = dict.fromkeys(partitions)
        self._topics.clear()
        place = COMMITTED if self.group is not None else self.fetcher.reset_place()
        for gone in [known for known in self.partitions if known not in wanted]:
            self.fetcher.remove(gone)
        for topic_partition in wanted:
            if topic_partition not in self.partitions:
                self.fetcher.add(topic_partition, place)
            self.metadata.use(topic_partition.topic, now_ms)

    def check_topics(self) -> None:
        """Raise if a topic that is wanted cannot be read at all.

        Raises:
            KafkaError: its name is not valid, or it is not permitted.
        """
        for topic in self._topics if self.group is None else self.group.topics:
            error = self.metadata.errors.get(topic)
            if error is not None and not error.retriable:
                raise error

    def _take_partitions(self) -> None:
        """Begin with partitions of followed topics that are new."""
        for topic in self._topics:
            info = self.metadata.image.topics.get(topic)
            if info is None:
                continue
            first = topic not in self._seen
            for number in range(self._seen.get(topic, 0), len(info.partitions)):
                topic_partition = TopicPartition(topic, number)
                if topic_partition not in self.partitions:
                    # What was made while we were reading is read from its beginning, or records would be lost.
                    self.fetcher.add(topic_partition, self.fetcher.reset_place() if first else EARLIEST)
            self._seen[topic] = max(len(info.partitions), self._seen.get(topic, 0))

    def on_image(self) -> None:
        self._take_partitions()
        if self.group is not None and self.group.membership is not None:
            self.group.membership.on_image()

    def wake(self) -> None:
        if self.on_step is not None and self.group is not None and self.group.step_waits:
            self.on_step()
        super().wake()

    # -- positions and records --------------------------------------------------------------------------------------

    def seek(self, state: PartitionState, offset: int) -> None:
        """Go to an offset."""
        self.fetcher.seek(state, offset)

    def seek_to(self, state: PartitionState, place: int) -> None:
        """Go to EARLIEST, LATEST or a time in milliseconds."""
        self.fetcher.seek_to(state, place)

    def take(self) -> Chunk | None:
        """Return a chunk of a partition; see `Fetcher.take`."""
        return self.fetcher.take()

    def fail(self, state: PartitionState, error: Exception) -> None:
        """What was fetched of a partition cannot be read; see `Fetcher.fail`."""
        self.fetcher.fail(state, error)

    def query(self, places: Mapping[TopicPartition, int], now_ms: float) -> Query:
        """Ask for offsets: EARLIEST, LATEST or a time in milliseconds, by partition."""
        return self.queries.begin(places, now_ms)

    def cancel(self, query: Query) -> None:
        """The caller does not wait for the answer any longer."""
        self.queries.cancel(query)
