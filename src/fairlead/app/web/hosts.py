"""By which names this machine may be asked: what is true of a `Host` header and of an address to listen on."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def is_here(host: str, open_to_others: bool, names: Collection[str] = ()) -> bool:
    """True if a `Host` header names loopback or one of `names`; of a server open to others, any numeric address.

    A page can rebind a name that it owns to this machine, but not a number.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", *names):
            return True
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return open_to_others or str(address) in ("127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_link(host: str) -> str:
    """The address as a browser on this machine reaches it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host
