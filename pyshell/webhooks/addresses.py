"""Which addresses a webhook may be sent to: those of the public internet.

Otherwise, whoever sets a webhook URL could make this server send requests to machines that only it can reach. A host name is resolved again
for each attempt, each of its addresses is checked, and the connection goes to a checked address, so it does not matter what the
name resolves to a moment later. However a host is written (decimal, hexadecimal, in brackets), the resulting address is checked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

# The IANA special-purpose registries of 2025. `ipaddress.is_global` is not used: it calls multicast, NAT64 and 6to4 addresses global, and
# its results vary with the version of Python.
REFUSED_IPV4: Final = [
    ip_network("0.0.0.0/8"),  # this network
    ip_network("10.0.0.0/8"),  # private
    ip_network("100.64.0.0/10"),  # shared by carriers (CGNAT)
    ip_network("127.0.0.0/8"),  # loopback
    ip_network("168.63.129.16/32"),  # the platform of Azure, as its machines see it
    ip_network("169.254.0.0/16"),  # link-local; metadata of cloud providers
    ip_network("172.16.0.0/12"),  # private
    ip_network("192.0.0.0/24"),  # IETF protocols
    ip_network("192.0.2.0/24"),  # documentation
    ip_network("192.31.196.0/24"),  # AS112
    ip_network("192.52.193.0/24"),  # multicast tunnels (AMT)
    ip_network("192.88.99.0/24"),  # 6to4 relays
    ip_network("192.168.0.0/16"),  # private
    ip_network("192.175.48.0/24"),  # AS112
    ip_network("198.18.0.0/15"),  # benchmarks
    ip_network("198.51.100.0/24"),  # documentation
    ip_network("203.0.113.0/24"),  # documentation
    ip_network("224.0.0.0/4"),  # multicast
    ip_network("240.0.0.0/4"),  # reserved; broadcast
]
# All of IPv6 outside this is refused: loopback, v4-mapped, NAT64 (64:ff9b::/96), unique local, link-local, multicast, unassigned.
GLOBAL_IPV6: Final = ip_network("2000::/3")
REFUSED_IPV6: Final = [
    ip_network("2001::/23"),  # IETF protocols: Teredo, benchmarks, ORCHID and others
    ip_network("2001:db8::/32"),  # documentation
    ip_network("2002::/16"),  # 6to4, which may hold any IPv4 address
    ip_network("2620:4f:8000::/48"),  # AS112
    ip_network("3fff::/20"),  # documentation
]

# Resolving a name blocks a thread, for up to half a minute if its servers do not respond. There may be as many as the sender has deliveries
# in flight, so that hundreds of such names do not block the others. A thread is started only if no other is idle.
_RESOLVERS: Final = ThreadPoolExecutor(max_workers=1000, thread_name_prefix="resolver")


class RefusedAddressError(Exception):
    """The host has an address to which webhooks may not be sent. The message is the host."""


def is_ip_address(host: str) -> bool:
    """Whether a host is an IP address in its usual notation, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether a text is an IP address of the public internet, not set aside for a special purpose."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in REFUSED_IPV4)
    assert isinstance(parsed, IPv6Address)
    return parsed.scope_id is None and parsed in GLOBAL_IPV6 and not any(parsed in network for network in REFUSED_IPV6)


def reached_at(address: str) -> IPv4Address | IPv6Address:
    """Where a connection to an IP address leads: the IPv4 address in a mapped one, and for 0.0.0.0 and :: this machine."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if not parsed.is_unspecified:
        return parsed
    return ip_address("127.0.0.1" if isinstance(parsed, IPv4Address) else "::1")


async def resolve(host: str, port: int, *, allow_private: bool, refused_networks: Sequence[Network] = ()) -> list[str]:
    """The IP addresses of a host, in the resolver's order, all of them checked.

    Raises RefusedAddressError if any of them is in `refused_networks`, or is not public (unless `allow_private`); OSError or UnicodeError
    if the host cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    # Looked up in its module at each call, so that tests can replace the resolver.
    found = await loop.run_in_executor(_RESOLVERS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    addresses = list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))
    if not allow_private and not all(map(is_public, addresses)):
        raise RefusedAddressError(host)
    if any(reached_at(address) in network for address in addresses for network in refused_networks):
        raise RefusedAddressError(host)
    return addresses
