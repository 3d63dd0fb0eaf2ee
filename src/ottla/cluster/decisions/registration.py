"""Whether a broker may register under its id, and which epoch it continues. Pure.

A broker id belongs to the log directories that registered under it. A broker epoch is the version of the broker's epoch node,
raised by each registration. A registration *continues* the epoch before if what was written under it cannot have been lost in
between: the directories were closed cleanly, or the page cache that holds unsynced writes is still the same (the process
died, the machine did not), or the process lived on. What was in sync under a continued epoch still is; after a break in the
chain a broker has to prove itself anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ottla.cluster.image import BrokerImage, Endpoint
from ottla.cluster.nodes import BrokerEpoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who wants to register.

    Attributes:
        directories: ids of its log directories.
        page_cache: see BrokerEpoch.
        was_clean: all directories were closed cleanly when they were used last.
        process: a random text that this process has made of itself. By it a process knows its own registration, also one
            whose answer was lost.
        machine, listener: see BrokerImage.
    """

    node_id: int
    endpoints: Sequence[Endpoint]
    rack: str | None = None
    directories: tuple[str, ...] = ()
    page_cache: str = ""
    was_clean: bool = False
    process: str = ""
    machine: str = ""
    listener: str = ""


class RegistrationRefusedError(Exception):
    """The broker may not register under its id or address. The text is one sentence for the user."""


def next_epoch(identity: Identity, stored: BrokerEpoch | None, stored_epoch: int) -> tuple[int, BrokerEpoch]:
    """Return the epoch to register under, and what its node is to say.

    Args:
        stored: what the epoch node says; None if there is none. `stored_epoch`: its version.

    Raises:
        RegistrationRefusedError: the id belongs to other directories.
    """
    mine = BrokerEpoch(directories=identity.directories, page_cache=identity.page_cache, process=identity.process)
    if stored is None:
        # States of the first releases count as admitted under epoch 0; after an unclean stop that is not continued.
        epoch = 0 if identity.was_clean else 1
        return epoch, replace(mine, continues=epoch)
    if not is_own(identity.directories, stored):
        raise RegistrationRefusedError(
            f"broker id {identity.node_id} belongs to other log directories than these; if their disk is lost, free the id "
            "(UnregisterBroker), else give this broker an id of its own (broker.id)"
        )
    continues = stored.continues if _is_unbroken(identity, stored) else stored_epoch + 1
    return stored_epoch + 1, replace(mine, continues=continues)


def is_own(directories: Collection[str], stored: BrokerEpoch) -> bool:
    """Return whether an epoch node belongs to a broker with these directories; some may have been added or lost."""
    return not stored.directories or not directories or not set(directories).isdisjoint(stored.directories)


def _is_unbroken(identity: Identity, stored: BrokerEpoch) -> bool:
    return (
        identity.was_clean
        or (identity.process != "" and identity.process == stored.process)
        or (identity.page_cache != "" and identity.page_cache == stored.page_cache)
    )


def check_addresses(identity: Identity, brokers: Mapping[int, BrokerImage]) -> None:
    """Refuse an address that another living broker has, and one that another broker's machine cannot reach.

    Raises:
        RegistrationRefusedError: clients would reach one broker where they want the other, or none.
    """
    mine = {(endpoint.host, endpoint.port): endpoint for endpoint in identity.endpoints if endpoint.port}
    for node_id, broker in brokers.items():
        if node_id == identity.node_id:
            continue
        for endpoint in broker.endpoints:
            if (endpoint.host, endpoint.port) in mine:
                raise RegistrationRefusedError(
                    f"broker {node_id} is registered under {endpoint.host or 'localhost'}:{endpoint.port}, as broker "
                    f"{identity.node_id} would be: give each its own address (advertised.listeners)"
                )
        if identity.machine and broker.machine and identity.machine != broker.machine:
            _check_loopback(identity.node_id, identity.endpoints, node_id)
            _check_loopback(node_id, broker.endpoints, identity.node_id)


def _check_loopback(node_id: int, endpoints: Sequence[Endpoint], elsewhere: int) -> None:
    for endpoint in endpoints:
        if is_loopback(endpoint.host):
            raise RegistrationRefusedError(
                f"broker {node_id} advertises {endpoint.host}:{endpoint.port}, which only its own machine reaches, and "
                f"broker {elsewhere} runs on another one: give broker {node_id} an address that all reach "
                "(--advertise, advertised.listeners)"
            )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means the machine that uses it."""
    return host == "::1" or host.startswith("127.") or host.lower() in ("localhost", "localhost.localdomain")
