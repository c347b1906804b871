"""The listening port: taken before the model is loaded, refusals that help."""

import os
import socket

import pytest

from tritserve.cli.listener import open_listener, url_of
from tritserve.errors import SettingsError


def test_port_0_picks_one_and_the_url_names_it() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert url_of(listener, "127.0.0.1", tls=False) == f"http://127.0.0.1:{port}"
        assert url_of(listener, "0.0.0.0", tls=True) == f"https://127.0.0.1:{port}"
        assert url_of(listener, "::1", tls=False) == f"http://[::1]:{port}"


def test_taken_port_is_named_with_the_flag() -> None:
    with open_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} on 127.0.0.1 is taken.*--port"):
            open_listener("127.0.0.1", port)


@pytest.mark.skipif(os.getuid() == 0, reason="root may listen anywhere")
def test_low_port_without_permission_says_so() -> None:
    with pytest.raises(SettingsError, match="above 1023"):
        open_listener("127.0.0.1", 81)


@pytest.mark.parametrize("host", ["192.0.2.1", "not a host"])
def test_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="not an address of this machine"):
        open_listener(host, 0)


def test_listener_accepts_connections() -> None:
    with open_listener("localhost", 0) as listener:
        socket.create_connection(listener.getsockname()[:2], timeout=5).close()
