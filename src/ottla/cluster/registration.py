"""Registration: this broker's nodes under /brokers, in one session after the other.

Registering is one transaction: the epoch node is raised, an ephemeral node that an earlier session of this broker left is
deleted, the new one is made. So there never are two registrations under one epoch, and everybody who checks the epoch node in
a transaction checks that the broker has not been away in between. Why a registration is refused is decided in
`decisions.registration`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ottla.cluster.decisions.registration import (
    Identity,
    RegistrationRefusedError,
    check_addresses,
    is_own,
    next_epoch,
)
from ottla.cluster.loading import load_brokers
from ottla.cluster.nodes import (
    CHANGE_PREFIX,
    CONTROLLER,
    BrokerEpoch,
    BrokerEpochNode,
    BrokerNode,
    Change,
    ChangeNode,
    ControllerNode,
    UnfitNode,
)
from ottla.cluster.tree import Check, Create, Delete, Operation, SetData, Tree, TreeError

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.cluster.change_log import ChangeLog

logger = logging.getLogger(__name__)

#: How often others may get between our reads and our write before we give up.
TRIES_MAX = 20


class Registration:
    """The registration of one broker; `register` in each session.

    Args:
        identity: asked for at each registration.
    """

    def __init__(self, identity: Callable[[], Identity], clock: Clock) -> None:
        self._identity = identity
        self._clock = clock
        self._epoch: int | None = None

    @property
    def epoch(self) -> int:
        """The broker epoch; -1 before the first registration."""
        return -1 if self._epoch is None else self._epoch

    @property
    def node_id(self) -> int:
        return self._identity().node_id

    def fence(self) -> list[Operation]:
        """Return the check that this broker has not been registered anew since."""
        return [] if self._epoch is None else [Check(BrokerEpochNode.path(self.node_id), self._epoch)]

    async def register(self, tree: Tree) -> int:
        """Register in this session; return the broker epoch.

        Raises:
            RegistrationRefusedError: the id or the address is taken; nothing was changed.
            TreeUnavailableError: it is unknown whether it was done; doing it again is right.
        """
        for _ in range(TRIES_MAX):
            await tree.sync()
            identity = self._identity()
            try:
                epoch, operations = await self._plan(tree, identity)
                await tree.multi(operations)
            except TreeError as error:
                logger.debug("registering again: %s", error)
                continue
            if self._epoch is None:
                logger.debug("broker %d is registered under epoch %d", identity.node_id, epoch)
            else:
                logger.info("broker %d is registered again, under epoch %d", identity.node_id, epoch)
            self._epoch = epoch
            return epoch
        raise RegistrationRefusedError(
            f"broker {self.node_id} cannot register: another process registers under this id at the same time"
        )

    async def _plan(self, tree: Tree, identity: Identity) -> tuple[int, list[Operation]]:
        node_id = identity.node_id
        epoch_path, path = BrokerEpochNode.path(node_id), BrokerNode.path(node_id)
        epoch_node, old, controller = await tree.get_many([epoch_path, path, CONTROLLER])
        stored = None if epoch_node is None else BrokerEpochNode.decode(node_id, epoch_node.data)
        if old is not None and old.stat.owner != tree.session_id and not _is_mine(identity, stored):
            broker = BrokerNode.decode(node_id, old.data, 0)
            where = ", ".join(f"{e.host or 'localhost'}:{e.port}" for e in broker.endpoints)
            raise RegistrationRefusedError(f"broker id {node_id} is taken by a living broker at {where}")
        epoch, node = next_epoch(identity, stored, -1 if epoch_node is None else epoch_node.stat.version)
        check_addresses(identity, (await load_brokers(tree)).brokers)
        operations: list[Operation] = []
        if epoch_node is not None:
            operations.append(SetData(epoch_path, BrokerEpochNode.encode(node), epoch_node.stat.version))
        else:
            operations.append(Create(epoch_path, BrokerEpochNode.encode(node)))
            if epoch:
                operations.append(SetData(epoch_path, BrokerEpochNode.encode(node)))
        if old is not None:
            operations.append(Delete(path))
        if controller is not None and ControllerNode.decode(controller.data) == node_id:
            operations.append(Delete(CONTROLLER))  # an office that an earlier session of this broker held
        now = self._clock.wall_ms()
        data = BrokerNode.encode(
            identity.endpoints, identity.rack, now, machine=identity.machine, listener=identity.listener
        )
        operations.append(Create(path, data, ephemeral=True))
        operations.append(Create(CHANGE_PREFIX, ChangeNode.encode(Change(brokers=True), now), sequential=True))
        return epoch, operations

    async def say_unfit(self, tree: Tree, partitions: Iterable[tuple[bytes, int]]) -> None:
        """Say in the tree which partitions, as (topic id, index), this broker holds and cannot lead. Elections skip it there.

        Raises:
            TreeError: this broker has been registered anew.
            TreeUnavailableError: it is unknown whether it was done; doing it again is right.
        """
        path = UnfitNode.path(self.node_id)
        data = UnfitNode.encode(partitions)
        exists = (await tree.get_many([path]))[0] is not None
        note = ChangeNode.encode(Change(brokers=True), self._clock.wall_ms())
        await tree.multi(
            [
                *self.fence(),
                SetData(path, data) if exists else Create(path, data),
                Create(CHANGE_PREFIX, note, sequential=True),
            ]
        )

    async def begin_stop(self, tree: Tree) -> None:
        """Say in the tree that this broker is about to stop: it is elected no more, and what it leads is given to others."""
        node_id = self.node_id
        path = BrokerEpochNode.path(node_id)
        node = await tree.get(path)
        if node.stat.version != self._epoch:
            return  # another registration has taken over
        said = replace(BrokerEpochNode.decode(node_id, node.data), is_stopping=True)
        note = ChangeNode.encode(Change(brokers=True), self._clock.wall_ms())
        await tree.multi(
            [
                SetData(path, BrokerEpochNode.encode(said), node.stat.version),
                Create(CHANGE_PREFIX, note, sequential=True),
            ]
        )
        self._epoch = node.stat.version + 1


async def free_id(log: ChangeLog, node_id: int, *, fence: Sequence[Operation]) -> bool:
    """Have a broker id belong to no log directories any more. Return whether it belonged to some.

    The epoch node stays and goes on counting: a broker with new directories must not come under an epoch under which the one
    before was admitted to an ISR. Nothing of the past is continued.

    Raises:
        TreeError: an operation of the fence was refused, or the broker has registered meanwhile.
    """
    path = BrokerEpochNode.path(node_id)
    node = (await log.tree.get_many([path]))[0]
    if node is None or not BrokerEpochNode.decode(node_id, node.data).directories:
        return False
    data = BrokerEpochNode.encode(BrokerEpoch(directories=(), continues=node.stat.version + 1))
    await log.commit([SetData(path, data, node.stat.version)], Change(brokers=True), fence=fence)
    return True


def _is_mine(identity: Identity, stored: BrokerEpoch | None) -> bool:
    """Return whether a registration that still lives is of an earlier session of the broker with these directories."""
    if stored is None or not stored.directories or not identity.directories:
        return False
    return is_own(identity.directories, stored)
