"""The asynchronous clients: the names of `ottla`, awaitable."""

from ottla.client.aio_admin import Admin
from ottla.client.aio_consumer import Consumer
from ottla.client.aio_group_membership import GroupMembership
from ottla.client.aio_producer import Producer, Transaction
from ottla.client.aio_share_consumer import ShareConsumer
from ottla.client.deliveries import AsyncDelivery as Delivery
from ottla.client.deliveries import AsyncTableDelivery as TableDelivery
from ottla.client.shortcuts import follow_async as follow
from ottla.client.shortcuts import read_async as read

__all__ = [
    "Producer",
    "Consumer",
    "ShareConsumer",
    "GroupMembership",
    "Admin",
    "Delivery",
    "TableDelivery",
    "Transaction",
    "read",
    "follow",
]
