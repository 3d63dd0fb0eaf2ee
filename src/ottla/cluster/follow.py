"""MetadataFollower: follows the tree and turns its changes into cluster images.

Every broker has one. It keeps one children-watch on /changes, reads the change nodes that are new, re-reads the nodes they
name, builds the next ClusterImage and tells subscribers (image, delta), on the loop, in order.
"""

from __future__ import annotations

from collections.abc import Callable

from ottla.cluster.image import ClusterImage, ImageDelta
from ottla.cluster.tree import Tree

Subscriber = Callable[[ClusterImage, ImageDelta], None]


class MetadataFollower:
    """Keeps `image` up to date. `start()` loads everything; from then on changes are followed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.image = ClusterImage()

    async def start(self) -> None:
        """Load the whole image and follow changes from there. The first image is told to subscribers as one delta."""
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call `callback(image, delta)` after every change. Returns a function that ends it."""
        raise NotImplementedError

    async def applied(self, epoch: int) -> ClusterImage:
        """Wait until the image includes change number `epoch`; return it."""
        raise NotImplementedError
