"""Another cluster's topics, group offsets, configurations and rules, with MirrorMaker 2's names and formats (KIP-382)."""

from __future__ import annotations

from ottla.connect.library.mirror.checkpoints import MirrorCheckpointConnector
from ottla.connect.library.mirror.heartbeats import MirrorHeartbeatConnector
from ottla.connect.library.mirror.source import MirrorSourceConnector

__all__ = ["MirrorCheckpointConnector", "MirrorHeartbeatConnector", "MirrorSourceConnector"]
