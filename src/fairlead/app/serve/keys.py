"""API keys: a file of hashes with the limits of each key. A secret has 256 random bits, so a quick hash is enough."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fairlead.core.errors import FairleadError, unknown
from fairlead.run.store import write_atomically

KEY = re.compile(rb"fl-([0-9a-f]{8})-([A-Za-z0-9_-]{43})")
LIMITS = ("requests", "runs", "waiting", "nfe", "seconds", "dollars")
"""What a key may be limited in: requests a minute, runs at once, runs that wait, and three amounts a day."""
HOME = ".serve"
"""The folder of the server below the runs folder."""
OPEN = "local"
"""The tenant of a server without keys."""
_NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclass(frozen=True)
class Caller:
    """Whose request it is, and the limits of that key."""

    tenant: str = OPEN
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Key:
    """Who may ask, without the secret."""

    id: str
    name: str
    hash: str
    """SHA-256 of the whole key, in hex."""
    limits: Mapping[str, float] = field(default_factory=dict)


class KeyFile:
    """The keys of a server, read again whenever the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: object = None
        self._keys: dict[str, Key] = {}

    def keys(self) -> dict[str, Key]:
        """Every key by its id."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        if stat.st_mode & 0o077:
            raise FairleadError(f"{self.path} can be read by others: it must have mode 600. Run: chmod 600 FILE.")
        if self._stamp != (stamp := (stat.st_ino, stat.st_mtime_ns, stat.st_size)):
            self._keys = self._read()
            self._stamp = stamp
        return self._keys

    def _read(self) -> dict[str, Key]:
        try:
            found = [Key(**entry) for entry in json.loads(self.path.read_bytes())]
        except (OSError, ValueError, TypeError) as error:
            raise FairleadError(f"{self.path} is not a file of keys ({error!s:.80}). Restore it.") from None
        return {key.id: key for key in found}

    def add(self, name: str, limits: Mapping[str, float]) -> str:
        """Store a new key and return its secret, which is stored nowhere."""
        for limit in limits:
            if limit not in LIMITS:
                raise unknown("limit", limit, LIMITS)
        id = secrets.token_hex(4)
        secret = f"fl-{id}-{secrets.token_urlsafe(32)}"
        with self._locked():
            self._write({**self.keys(), id: Key(id, name, _hashed(secret.encode()), dict(limits))})
        return secret

    def remove(self, id: str) -> Key:
        """Forget a key; a running server refuses it from its next request on."""
        with self._locked():
            keys = dict(self.keys())
            if id not in keys:
                raise unknown("key", id, keys, see="fairlead serve keys list")
            gone = keys.pop(id)
            self._write(keys)
        return gone

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process changes the file at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, keys: Mapping[str, Key]) -> None:
        before = os.umask(0o077)
        try:
            write_atomically(self.path, json.dumps([asdict(key) for key in keys.values()], indent=1).encode())
        finally:
            os.umask(before)

    def who(self, authorization: bytes) -> Key | None:
        """The key of an `Authorization` header, None if it is none. Always one comparison of equal length."""
        scheme, _, sent = authorization.strip().partition(b" ")
        found = KEY.fullmatch(sent.strip()) if scheme.lower() == b"bearer" else None
        key = None if found is None else self.keys().get(found[1].decode())
        wanted = _NOBODY if key is None else key.hash
        same = hmac.compare_digest(_hashed(sent.strip()).encode(), wanted.encode())
        return key if same else None


def _hashed(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def parse_key_limits(text: str) -> dict[str, float]:
    """`requests=60,nfe=100000` -> limits."""
    found: dict[str, float] = {}
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = item.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise FairleadError(f"Limit {item!r} is not name=number. Write for example nfe=100000.") from None
        if name not in LIMITS:
            raise unknown("limit", name, LIMITS)
        if not 0 <= found[name] < float("inf"):
            raise FairleadError(f"Limit {item!r} must be in [0, inf).")
    return found


def shown(key: Key) -> dict[str, Any]:
    """A key as it is listed."""
    return {"id": key.id, "name": key.name, "limits": dict(key.limits)}
