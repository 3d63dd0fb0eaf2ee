"""Names of those who ask, and of where they ask from, as Java writes them: ACLs are compared with these texts."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address


@lru_cache(maxsize=4096)
def java_address(host: str) -> str:
    """Return an address as Java's `InetAddress.getHostAddress` does: `::1` is `0:0:0:0:0:0:0:1`.

    An IPv4 address in the clothes of IPv6 is an IPv4 address. Text that is no address stays as it is.
    """
    bare, percent, scope = host.partition("%")
    try:
        address: IPv4Address | IPv6Address = ip_address(bare)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    number = int(address)
    groups = ":".join(f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16))
    return f"{groups}{percent}{scope}"
