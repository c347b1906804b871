"""Take the listening port before anything slow happens, and name what is in the way."""

from __future__ import annotations

import errno
import socket

from tritserve.errors import SettingsError

BACKLOG = 2048


def open_listener(host: str, port: int) -> socket.socket:
    """Return a bound, listening TCP socket. Raises SettingsError naming the address and the flag that helps."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"--host {host} is not an address of this machine: {error.strerror or error}") from error
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return listener
    except OSError as error:
        listener.close()
        raise SettingsError(_why(error, host, port)) from error
    except BaseException:
        listener.close()
        raise


def url_of(listener: socket.socket, host: str, *, tls: bool) -> str:
    """Return the URL a person on this machine can open; a wildcard address becomes loopback."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another program; choose one with --port (0 picks a free one)"
    if error.errno == errno.EACCES:
        return f"this user may not listen on port {port}; choose one above 1023 with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}"
