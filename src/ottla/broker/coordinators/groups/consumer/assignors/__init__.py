"""The assignors of consumer groups, by name (`group.consumer.assignors`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ottla.broker.coordinators.groups.consumer.assignors.range import RangeAssignor
from ottla.broker.coordinators.groups.consumer.assignors.uniform import UniformAssignor

if TYPE_CHECKING:
    from ottla.broker.coordinators.groups.modern.assignor import Assignor

ASSIGNORS: Final[Mapping[str, Assignor]] = MappingProxyType({"uniform": UniformAssignor(), "range": RangeAssignor()})
