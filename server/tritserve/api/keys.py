"""API keys: only their SHA-256 is held, compared in constant time, and the file is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from tritserve.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tritserve.settings import Settings

logger = logging.getLogger(__name__)
VARIABLE_KEY_NAME = "default"
"""The name in log lines of the key that ``TRITSERVE_API_KEY`` gives."""

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MAX_FILE_BYTES = 1024 * 1024
_STAT_INTERVAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """One line of the key file. ``expires`` is the last day it is good for, in UTC."""

    name: str
    digest: bytes
    expires: date | None = None


class KeyRing:
    """Every key that may be used. Looking one up costs the same whether it is there or not."""

    def __init__(
        self,
        keys: tuple[Key, ...] = (),
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        """Hold ``keys`` and those of the file at ``path``. Raises SettingsError if the file is malformed or cannot be read."""
        self._fixed = keys
        self._path = path
        self._clock = clock
        self._today = today
        self._stamp = _stamp_of(path) if path is not None else None
        self._looked_at = clock()
        self._problem = ""
        self._keys = keys if path is None else (*keys, *read_key_file(path))

    @classmethod
    def from_settings(cls, settings: Settings) -> KeyRing | None:
        """Return the ring that the settings ask for, None where they ask for none. Raises SettingsError."""
        if settings.api_key_file is None and settings.api_key is None:
            return None
        fixed: tuple[Key, ...] = ()
        if settings.api_key is not None:
            secret = settings.api_key.get_secret_value()
            if not secret.strip():
                raise SettingsError("TRITSERVE_API_KEY is empty; unset it or give it a key")
            fixed = (Key(VARIABLE_KEY_NAME, hashlib.sha256(secret.encode()).digest()),)
        return cls(fixed, settings.api_key_file)

    def find(self, presented: bytes) -> str | None:
        """Return the name of the key, or None if it is unknown or has expired."""
        self._reload_if_changed()
        digest = hashlib.sha256(presented).digest()
        today = self._today()
        found: str | None = None
        for key in self._keys:  # no early exit: the time must not tell which key came close, or where it stands
            is_equal = hmac.compare_digest(digest, key.digest)
            is_current = key.expires is None or today <= key.expires
            if is_equal and is_current:
                found = key.name
        return found

    def _reload_if_changed(self) -> None:
        """Look at the file at most once a second; a damaged or missing one leaves the ring as it was."""
        now = self._clock()
        if self._path is None or now - self._looked_at < _STAT_INTERVAL_SECONDS:
            return
        self._looked_at = now
        try:
            stamp = _stamp_of(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._keys = (*self._fixed, *read_key_file(self._path))
        except SettingsError as error:
            if str(error) != self._problem:  # a file that stays away is news once, not every second
                self._problem = str(error)
                logger.error("the API keys stay as they were: %s", error)
        else:
            self._problem = ""
            logger.info("the API keys were read again: %d", len(self._keys))


def read_key_file(path: Path) -> tuple[Key, ...]:
    """Read ``name, sha256 hex[, expiry date]`` per line; empty lines and those that start with # are skipped.

    Raises SettingsError naming the line (never repeating what should be a hash: it may be a key).
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SettingsError(f"cannot read the API key file {path}: {reason}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise SettingsError(f"the API key file {path} is larger than {_MAX_FILE_BYTES} bytes")
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = tuple(_parse(line, f"{path}, line {number}") for number, line in lines if line and not line.startswith("#"))
    if not keys:
        raise SettingsError(f"the API key file {path} holds no key; a line is: name, sha256 hex[, expiry date]")
    names: set[str] = set()
    for key in keys:
        if key.name in names:
            raise SettingsError(f"{path}: the name {key.name} stands on two lines")
        names.add(key.name)
    return keys


def _parse(line: str, where: str) -> Key:
    fields = [part.strip() for part in line.split(",")]
    if len(fields) not in (2, 3):
        raise SettingsError(f"{where}: expected name, sha256 hex[, expiry date], found {len(fields)} fields")
    if not _NAME.fullmatch(fields[0]):
        raise SettingsError(f"{where}: a name is 1 to 64 letters, digits, or any of _ . @ -")
    if not _DIGEST.fullmatch(fields[1]):
        raise SettingsError(
            f"{where}: the second field must be the key's SHA-256, 64 hex digits (printf %s KEY | sha256sum)"
        )
    try:
        expires = date.fromisoformat(fields[2]) if len(fields) == 3 else None
    except ValueError:
        raise SettingsError(f"{where}: the expiry must be a date such as 2027-12-31") from None
    return Key(fields[0], bytes.fromhex(fields[1]), expires)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """What changes when a file does. Kubernetes swaps a link to another inode; editors rename."""
    try:
        found = path.stat()
    except OSError as error:
        raise SettingsError(f"cannot read the API key file {path}: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino
