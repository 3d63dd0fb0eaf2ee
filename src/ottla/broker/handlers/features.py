"""UpdateFeatures (key 57, versions 0-2): the finalized levels that ApiVersions shows (KIP-584).

v1: upgrade types, and asking without doing. v2: no results by feature. In every version all updates are made or none, and the
first refusal is the answer. As in Apache Kafka the flag of version 0 that allows downgrades is not looked at.

What the levels mean:
* group.version 0: ConsumerGroupHeartbeat and ConsumerGroupDescribe answer UNSUPPORTED_VERSION, so that consumers use the
  classic protocol. Consumer groups that exist stay; classic members may join them.
* streams.version 0: the same for streams groups. share.version 0: the same for share groups, their offsets and fetches.
* transaction.version 1: clients add partitions to transactions themselves and keep their epoch from one to the next. Those
  that use newer requests all the same are served. 0: in addition `__transaction_state` is written in the format of Kafka
  before 3.9, which has no room for what newer requests need: they are refused with UNSUPPORTED_VERSION. A transaction
  that was begun before is ended in the newer format.

Where we differ from Apache Kafka: there is no metadata.version, kraft.version or eligible.leader.replicas.version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ottla.broker.context import Route
from ottla.cluster.decisions.features import UPGRADE, FeatureUpdate
from ottla.errors import ErrorCode
from ottla.protocol.api import ApiKey
from ottla.protocol.messages.update_features import (
    UpdatableFeatureResult,
    UpdateFeaturesRequest,
    UpdateFeaturesResponse,
)

if TYPE_CHECKING:
    from ottla.broker.context import RequestContext, Routes
    from ottla.cluster.controller import Controller


class FeaturesHandler:
    """Changes feature levels."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def routes(self) -> Routes:
        return {ApiKey.UPDATE_FEATURES: Route(self.handle_update_features)}

    async def handle_update_features(
        self, context: RequestContext, request: UpdateFeaturesRequest
    ) -> UpdateFeaturesResponse:
        updates = [
            FeatureUpdate(row.feature, row.max_version_level, row.upgrade_type if context.version > 0 else UPGRADE)
            for row in request.feature_updates
        ]
        refusal = await self._controller.update_features(updates, validate_only=request.validate_only)
        if refusal is not None:
            return UpdateFeaturesResponse(error_code=refusal.error, error_message=refusal.message)
        return UpdateFeaturesResponse(
            error_message=None,
            results=[
                UpdatableFeatureResult(feature=update.name, error_code=ErrorCode.NONE, error_message="NONE")
                for update in updates
            ],
        )
