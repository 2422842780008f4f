"""Where webhooks may go: not to this server, nor to what only its machine or network can reach.

A webhook's address is its sender's choice. The address that a name has when it is connected to is
what counts, so that a name cannot change between the look and the connection.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from runpod_flash.gateway.messages import Refusal, header

if TYPE_CHECKING:
    from runpod_flash.gateway.messages import Scope
    from runpod_flash.gateway.settings import Settings

    Address = IPv4Address | IPv6Address

_PORTS = {"http": 80, "https": 443}
_LONGEST = 2048
# Services that tell secrets of the machine to whoever asks from it, beside the link-local one.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"))
)
_THIS_NETWORK = ip_network("0.0.0.0/8")
_NAT64 = ip_network("64:ff9b::/96")


class ForbiddenTargetError(Exception):
    """A webhook may not go there; the message says why."""


class Targets:
    """Judges addresses by the operator's settings. `own_ports` are those that this server has."""

    def __init__(self, settings: Settings) -> None:
        self._private = settings.webhook_private
        self._loopback = settings.webhook_loopback
        self.own_ports: set[int] = set()

    def check(self, webhook: str, scope: Scope) -> None:
        """Refuse (400) a webhook whose URL itself shows that it may not go there."""
        host, port = _parts(webhook)
        try:
            if _same(host, port, header(scope, b"host") or ""):
                raise ForbiddenTargetError("it is this server's own")
            if host == "localhost" or host.endswith(".localhost"):
                host = "127.0.0.1"
            literal = _literal(host)
            if literal is not None:
                self._judge(literal, port)
        except ForbiddenTargetError as error:
            raise Refusal(400, f"webhook={webhook!r} is no address to call: {error}") from None

    async def resolve(self, host: str, port: int) -> str:
        """An address of the host that may be connected to; raises why there is none."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
        for address in addresses:
            # (All of them: a name with a harmless address beside another one is a trap.)
            self._judge(ip_address(address), port)
        return addresses[0]

    def _judge(self, address: Address, port: int) -> None:
        address = _inner(address)
        if address.is_loopback:
            if not self._loopback:
                raise ForbiddenTargetError(f"{address} is this machine")
        elif _never(address):
            raise ForbiddenTargetError(f"{address} is no host's, or tells secrets of this machine")
        elif not address.is_global and not self._private:
            raise ForbiddenTargetError(f"{address} is in a private network")
        if port in self.own_ports and _is_here(address):
            raise ForbiddenTargetError("it is this server's own")


def _parts(webhook: str) -> tuple[str, int]:
    """Host and port of a URL; refused where it is none."""
    import httpx

    plain = webhook.isascii() and webhook.isprintable() and " " not in webhook
    try:
        parts = urlsplit(webhook)
        port = parts.port or _PORTS[parts.scheme]
        host = (parts.hostname or "").rstrip(".")
        if plain:
            httpx.URL(webhook).host.encode("idna")  # as it is looked up once it is told
    except (ValueError, KeyError, httpx.InvalidURL):
        host, port = "", 0
    if not plain or not host or not port or len(webhook) > _LONGEST or "\\" in webhook:
        shown = webhook if len(webhook) <= 80 else f"{webhook[:77]}..."
        text = f"webhook={shown!r} is no http or https URL; give one such as https://host/path"
        raise Refusal(400, text)
    return host, port


def _same(host: str, port: int, authority: str) -> bool:
    """Whether a request's Host header names that host and port."""
    try:
        own = urlsplit(f"//{authority}")
        ports = {own.port} if own.port else set(_PORTS.values())
    except ValueError:
        return False
    return host == own.hostname and port in ports


def _literal(host: str) -> Address | None:
    """The address that a host is, in whatever notation the system takes; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # such as 127.1, 0x7f000001 or 2130706433
    except (OSError, UnicodeError):
        return None


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def _never(address: Address) -> bool:
    special = address.is_link_local or address.is_multicast or address.is_unspecified
    reserved = address.is_reserved or (address.version == 4 and address in _THIS_NETWORK)
    return special or reserved or address in _METADATA


def _is_here(address: Address) -> bool:
    """Whether the address is one of this machine."""
    if address.is_loopback:
        return True
    import psutil

    known = {place.address for each in psutil.net_if_addrs().values() for place in each}
    return str(address) in known
