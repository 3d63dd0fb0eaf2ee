"""ottla: a Kafka you can pip install, and a client for it.

Names are imported when they are first used: `ottla serve` does not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ottla import aio as aio
    from ottla import assignors as assignors
    from ottla import sasl as sasl
    from ottla import serde as serde
    from ottla.client._core.asking import CallTimeoutError as CallTimeoutError
    from ottla.client._core.classic_member import JoinedMember as JoinedMember
    from ottla.client._core.plain_group import Joined as Joined
    from ottla.client._core.plain_group import Lost as Lost
    from ottla.client._core.plain_group import Rebalancing as Rebalancing
    from ottla.client._core.transactions import GroupMetadata as GroupMetadata
    from ottla.client._core.transactions import OffsetAndMetadata as OffsetAndMetadata
    from ottla.client.acquired import AcquiredRecord as AcquiredRecord
    from ottla.client.admin import Admin as Admin
    from ottla.client.admin_errors import AdminErrors as AdminErrors
    from ottla.client.admin_results import Acl as Acl
    from ottla.client.admin_results import AclFilter as AclFilter
    from ottla.client.admin_results import NewTopic as NewTopic
    from ottla.client.consumed import Batch as Batch
    from ottla.client.consumed import Headers as Headers
    from ottla.client.consumed import Record as Record
    from ottla.client.consumer import Consumer as Consumer
    from ottla.client.deliveries import Delivery as Delivery
    from ottla.client.deliveries import PartitionWritten as PartitionWritten
    from ottla.client.deliveries import TableDelivery as TableDelivery
    from ottla.client.errors import Abort as Abort
    from ottla.client.errors import BlockedTooLongError as BlockedTooLongError
    from ottla.client.errors import ClosedError as ClosedError
    from ottla.client.errors import CommitFailedError as CommitFailedError
    from ottla.client.errors import ConfigurationError as ConfigurationError
    from ottla.client.errors import DeliveryError as DeliveryError
    from ottla.client.errors import DeliveryErrors as DeliveryErrors
    from ottla.client.errors import DeserializationError as DeserializationError
    from ottla.client.errors import ForkedError as ForkedError
    from ottla.client.errors import LogTruncationError as LogTruncationError
    from ottla.client.errors import PollIntervalExceededError as PollIntervalExceededError
    from ottla.client.errors import RecordTooLargeError as RecordTooLargeError
    from ottla.client.errors import SerializationError as SerializationError
    from ottla.client.errors import TransactionAbortedError as TransactionAbortedError
    from ottla.client.errors import TransactionOutcomeUnknownError as TransactionOutcomeUnknownError
    from ottla.client.errors import TransactionStateError as TransactionStateError
    from ottla.client.group_membership import GroupMembership as GroupMembership
    from ottla.client.lanes import Retry as Retry
    from ottla.client.producer import Producer as Producer
    from ottla.client.producer import Transaction as Transaction
    from ottla.client.property_files import read_properties as read_properties
    from ottla.client.records import RecordMetadata as RecordMetadata
    from ottla.client.share_consumer import ShareConsumer as ShareConsumer
    from ottla.client.shortcuts import follow as follow
    from ottla.client.shortcuts import read as read
    from ottla.errors import InvalidRecordStateError as InvalidRecordStateError
    from ottla.errors import KafkaError as KafkaError
    from ottla.errors import ProducerFencedError as ProducerFencedError
    from ottla.network.channel_errors import BrokerUnreachableError as BrokerUnreachableError
    from ottla.network.channel_errors import NotKafkaError as NotKafkaError
    from ottla.network.channel_errors import TlsError as TlsError
    from ottla.types import TopicPartition as TopicPartition

_MODULES = {
    "ottla": ("aio", "assignors", "sasl", "serde"),
    "ottla.client.producer": ("Producer", "Transaction"),
    "ottla.client.consumer": ("Consumer",),
    "ottla.client.share_consumer": ("ShareConsumer",),
    "ottla.client.acquired": ("AcquiredRecord",),
    "ottla.client.admin": ("Admin",),
    "ottla.client.admin_errors": ("AdminErrors",),
    "ottla.client.admin_results": ("Acl", "AclFilter", "NewTopic"),
    "ottla.client.consumed": ("Batch", "Headers", "Record"),
    "ottla.client.group_membership": ("GroupMembership",),
    "ottla.client._core.classic_member": ("JoinedMember",),
    "ottla.client._core.plain_group": ("Joined", "Lost", "Rebalancing"),
    "ottla.client.deliveries": ("Delivery", "PartitionWritten", "TableDelivery"),
    "ottla.client.lanes": ("Retry",),
    "ottla.client.property_files": ("read_properties",),
    "ottla.client.records": ("RecordMetadata",),
    "ottla.client.shortcuts": ("follow", "read"),
    "ottla.client._core.asking": ("CallTimeoutError",),
    "ottla.client._core.transactions": ("GroupMetadata", "OffsetAndMetadata"),
    "ottla.client.errors": (
        "Abort",
        "BlockedTooLongError",
        "ClosedError",
        "CommitFailedError",
        "ConfigurationError",
        "DeliveryError",
        "DeliveryErrors",
        "DeserializationError",
        "ForkedError",
        "LogTruncationError",
        "PollIntervalExceededError",
        "RecordTooLargeError",
        "SerializationError",
        "TransactionAbortedError",
        "TransactionOutcomeUnknownError",
        "TransactionStateError",
    ),
    "ottla.errors": ("InvalidRecordStateError", "KafkaError", "ProducerFencedError"),
    "ottla.network.channel_errors": ("BrokerUnreachableError", "NotKafkaError", "TlsError"),
    "ottla.types": ("TopicPartition",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'ottla' has no attribute {name!r}")
    found = import_module(f"ottla.{name}") if module == "ottla" else getattr(import_module(module), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
