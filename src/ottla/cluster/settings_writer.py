"""SettingsWriter: configurations, feature levels and producer ids in the tree.

Every broker writes them, by compare-and-set on what the tree has at that moment: of two brokers that change the same setting
at the same time, the second one decides again on what the first one has written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ottla.cluster.decisions.configs import Alteration, apply_alterations
from ottla.cluster.decisions.features import FeatureUpdate, update_features
from ottla.cluster.decisions.refusal import Refusal
from ottla.cluster.image import BROKERS, GROUPS, TOPICS, USERS, ConfigResource
from ottla.cluster.nodes import (
    FEATURES,
    PRODUCER_ID_BLOCK,
    PRODUCER_ID_BLOCK_SIZE,
    Change,
    ConfigNode,
    Features,
    FeaturesNode,
    ProducerIdBlockNode,
)
from ottla.cluster.tree import Create, Delete, Node, Operation, RequestTooLargeError, SetData, TreeError
from ottla.config import BROKER, GROUP, TOPIC
from ottla.errors import ErrorCode

if TYPE_CHECKING:
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.registration import Registration
    from ottla.config.keys import ConfigKey

#: How often another broker may be quicker before the client is asked to try again.
TRIES_MAX = 20

Check = Callable[[Mapping[str, str]], Refusal | None]
"""Says what is wrong with all overrides of a resource, None if they are fine."""
TryOut = Callable[[ConfigResource, Mapping[str, str]], Awaitable[Refusal | None]]
"""Says whether such overrides work: what it takes files to know."""


async def untried(resource: ConfigResource, changed: Mapping[str, str]) -> Refusal | None:
    """Take all overrides without trying them out."""
    return None


class SettingsWriter:
    """Writes settings of this broker's change log.

    Args:
        try_out: whether new overrides of a resource work where they are to be in force, asked when all else is right.
    """

    def __init__(self, log: ChangeLog, registration: Registration, try_out: TryOut = untried) -> None:
        self._log = log
        self._registration = registration
        self._try_out = try_out

    async def alter(
        self, resource: ConfigResource, alterations: Sequence[Alteration], check: Check, *, validate_only: bool
    ) -> Refusal | None:
        """Change single keys. Returns None if it was done (or could be)."""
        return await self._change(
            resource, lambda current: apply_alterations(current, alterations, _keys_of(resource)), check, validate_only
        )

    async def replace(
        self, resource: ConfigResource, config: Mapping[str, str], check: Check, *, validate_only: bool
    ) -> Refusal | None:
        """Replace all overrides of a resource. Returns None if it was done (or could be)."""
        return await self._change(resource, lambda current: dict(config), check, validate_only)

    async def _change(
        self,
        resource: ConfigResource,
        decide: Callable[[Mapping[str, str]], dict[str, str] | Refusal],
        check: Check,
        validate_only: bool,
    ) -> Refusal | None:
        path, parents = ConfigNode.path(*resource), ConfigNode.parents(*resource)
        for _ in range(TRIES_MAX):
            tree = self._log.tree
            node, *above = await tree.get_many([path, *parents])
            changed = decide({} if node is None else ConfigNode.decode(path, node.data))
            refusal = changed if isinstance(changed, Refusal) else check(changed)
            if refusal is None and not isinstance(changed, Refusal):
                refusal = await self._try_out(resource, changed)
            if refusal is not None or validate_only:
                return refusal
            assert not isinstance(changed, Refusal)
            operation = _config_operation(path, node, changed, keeps_node=resource.kind == USERS and not parents)
            if operation is None:
                return None
            missing = [parent for parent, found in zip(parents, above, strict=True) if found is None]
            operations = [*(Create(parent, ConfigNode.encode({})) for parent in missing), operation]
            try:
                change = Change(configs=((resource.kind, resource.name),))
                await self._log.commit(operations, change, fence=self._registration.fence(), tree=tree)
                return None
            except RequestTooLargeError:
                raise
            except TreeError as error:
                if error.path not in (path, *parents):
                    raise
        return Refusal(ErrorCode.REQUEST_TIMED_OUT, "Others change these settings at the same time.")

    async def update_features(self, updates: Sequence[FeatureUpdate], *, validate_only: bool) -> Refusal | None:
        """Give features other levels, all of them or none. Returns None if it was done (or could be)."""
        for _ in range(TRIES_MAX):
            tree = self._log.tree
            node = await tree.get(FEATURES)
            features = FeaturesNode.decode(node.data)
            levels = update_features(features.levels, updates)
            if isinstance(levels, Refusal):
                return levels
            if validate_only or levels == features.levels:
                return None
            data = FeaturesNode.encode(Features(levels, features.tree_format))
            try:
                operations = [SetData(FEATURES, data, node.stat.version)]
                await self._log.commit(operations, Change(features=True), fence=self._registration.fence(), tree=tree)
                return None
            except RequestTooLargeError:
                raise
            except TreeError as error:
                if error.path != FEATURES:
                    raise
        return Refusal(ErrorCode.REQUEST_TIMED_OUT, "Others change feature levels at the same time.")

    async def allocate_producer_ids(self) -> range:
        """Return a block of 1,000 producer ids that no other broker has or will get."""
        while True:
            node = (await self._log.tree.get_many([PRODUCER_ID_BLOCK]))[0]
            start = 0 if node is None else ProducerIdBlockNode.decode(node.data).stop
            try:
                return await self._write_producer_id_block(node, start)
            except TreeError:
                continue  # another broker took this block

    async def begin_producer_ids_at(self, start: int) -> None:
        """Begin with these ids if none have been given out from this tree yet."""
        node = (await self._log.tree.get_many([PRODUCER_ID_BLOCK]))[0]
        if node is None:
            await self._write_producer_id_block(None, start)

    async def _write_producer_id_block(self, node: Node | None, start: int) -> range:
        block = range(start, start + PRODUCER_ID_BLOCK_SIZE)
        data = ProducerIdBlockNode.encode(self._registration.node_id, block)
        operation: Operation = (
            Create(PRODUCER_ID_BLOCK, data) if node is None else SetData(PRODUCER_ID_BLOCK, data, node.stat.version)
        )
        await self._log.tree.multi([operation])
        return block


def _config_operation(path: str, node: Node | None, config: Mapping[str, str], *, keeps_node: bool) -> Operation | None:
    """Return what makes the overrides what they are to be; None if there is nothing to do.

    A user's node is kept when it has become empty: below it there may be those of client ids.
    """
    if node is None:
        return Create(path, ConfigNode.encode(config)) if config else None
    if not config and not keeps_node:
        return Delete(path, node.stat.version)
    return SetData(path, ConfigNode.encode(config), node.stat.version)


def _keys_of(resource: ConfigResource) -> Mapping[str, ConfigKey]:
    """Return the keys whose types are known where lists grow and shrink; Kafka knows none of client metrics there."""
    return {TOPICS: TOPIC, GROUPS: GROUP, BROKERS: BROKER}.get(resource.kind, {})
