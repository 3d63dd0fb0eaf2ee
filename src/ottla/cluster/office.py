"""Office: whether this broker is the controller.

The controller is the broker whose session made /controller, an ephemeral node. With it, in the same transaction,
/controller_epoch is raised, whose version everything a controller writes is checked against: one that has been replaced, and
does not know yet, can write nothing more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ottla.cluster.nodes import CONTROLLER, CONTROLLER_EPOCH, Change, ControllerEpochNode, ControllerNode
from ottla.cluster.tree import Check, Create, NodeExistsError, Operation, SetData, TreeError
from ottla.errors import NotControllerError

if TYPE_CHECKING:
    from ottla.clock import Clock
    from ottla.cluster.change_log import ChangeLog
    from ottla.cluster.registration import Registration
    from ottla.cluster.tree import Tree

logger = logging.getLogger(__name__)


class Office:
    """The controller's office, as this broker holds it or not."""

    def __init__(self, log: ChangeLog, registration: Registration, clock: Clock) -> None:
        self._log = log
        self._registration = registration
        self._clock = clock
        self._session_id = 0
        self._version = -1
        self.epoch = 0

    @property
    def is_held(self) -> bool:
        """Whether this broker is the controller, as far as it knows."""
        return self.epoch > 0 and self._session_id == self._log.tree.session_id

    def fence(self) -> list[Operation]:
        """Return the check that begins everything the controller writes.

        Raises:
            NotControllerError: this broker is none.
        """
        if not self.is_held:
            raise NotControllerError("this broker is not the controller")
        return [Check(CONTROLLER_EPOCH, self._version)]

    async def try_take(self) -> bool:
        """Become the controller if there is none. Return whether this broker is it.

        Raises:
            TreeUnavailableError: it is unknown.
        """
        if self.is_held:
            return True
        tree = self._log.tree
        await tree.sync()
        # In this order: if the office is this session's, the epoch has not changed since it was taken.
        node = await tree.get(CONTROLLER_EPOCH)
        held = (await tree.get_many([CONTROLLER]))[0]
        if held is not None:
            if held.stat.owner != tree.session_id:
                return False
            # It was taken before, and the answer was lost.
            self._hold(ControllerEpochNode.decode(node.data), node.stat.version, tree)
            return True
        epoch = ControllerEpochNode.decode(node.data) + 1
        try:
            await self._log.commit(
                [
                    Create(
                        ControllerNode.path,
                        ControllerNode.encode(self._registration.node_id, self._clock.wall_ms()),
                        ephemeral=True,
                    ),
                    SetData(CONTROLLER_EPOCH, ControllerEpochNode.encode(epoch), node.stat.version),
                ],
                Change(brokers=True),
                fence=self._registration.fence(),
                tree=tree,
            )
        except NodeExistsError:
            return False
        except TreeError as error:
            logger.debug("not the controller: %s", error)
            return False
        self._hold(epoch, node.stat.version + 1, tree)
        return True

    def _hold(self, epoch: int, version: int, tree: Tree) -> None:
        self.epoch, self._version, self._session_id = epoch, version, tree.session_id
        logger.debug("broker %d is the controller, in epoch %d", self._registration.node_id, epoch)

    def leave(self) -> None:
        """Believe no more to be the controller: its session has ended, or another one has been elected."""
        self.epoch = 0
