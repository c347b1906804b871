"""Key files: what is read, what is refused, and when it is read again."""

from __future__ import annotations

import hashlib
import hmac
import os
from datetime import date
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from tritserve.api import keys as keys_module
from tritserve.api.keys import KeyRing, read_key_file
from tritserve.errors import SettingsError
from tritserve.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def replace(path: Path, text: str) -> None:
    """Replace a file as editors and Kubernetes do: by another inode."""
    new = path.with_name("new")
    new.write_text(text)
    os.replace(new, path)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_ring_without_keys() -> None:
    assert KeyRing.from_settings(Settings()) is None


def test_keys_of_file_and_variable_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# people\n\nann, {digest('secret-a')}\n  bob ,{digest('secret-b').upper()}, 2999-01-01\r\n")
    ring = KeyRing.from_settings(Settings(api_key_file=path, api_key=SecretStr("from-variable")))
    assert ring is not None
    found = [ring.find(key) for key in (b"secret-a", b"secret-b", b"from-variable", b"secret-c", b"", b"ann")]
    assert found == ["ann", "bob", "default", None, None, None]


def test_key_is_good_on_its_last_day_and_not_after(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"ann, {digest('k')}, 2027-05-31")
    for day, name in ((date(2027, 5, 31), "ann"), (date(2027, 6, 1), None)):
        assert KeyRing(path=path, today=lambda day=day: day).find(b"k") == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no key"),
        ("# nothing", "holds no key"),
        ("plain-secret", "line 1: expected name, sha256"),
        ("ann, plain-secret", "line 1: the second field must be the key's SHA-256"),
        (f"\nann, {digest('k')[:-1]}", "line 2: the second field"),
        (f"a b, {digest('k')}", "line 1: a name is"),
        (f", {digest('k')}", "line 1: a name is"),
        (f"ann, {digest('k')}, soon", "line 1: the expiry must be a date"),
        (f"ann, {digest('k')}, 2027-01-01, x", "found 4 fields"),
        (f"ann, {digest('k')}\nann, {digest('l')}", "the name ann stands on two lines"),
    ],
)
def test_malformed_file_is_refused_with_the_line_and_without_its_text(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(SettingsError) as refused:
        read_key_file(path)
    assert says in str(refused.value)
    assert "plain-secret" not in str(refused.value)


def test_file_that_is_absent_binary_or_huge_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(SettingsError, match="No such file"):
        KeyRing.from_settings(Settings(api_key_file=path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not text"):
        KeyRing.from_settings(Settings(api_key_file=path))
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(SettingsError, match="larger than"):
        KeyRing.from_settings(Settings(api_key_file=path))


def test_empty_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="TRITSERVE_API_KEY is empty"):
        KeyRing.from_settings(Settings(api_key=SecretStr(" ")))


def test_changed_file_counts_after_a_second_at_most_and_is_not_looked_at_more_often(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text(f"ann, {digest('old')}")
    ring = KeyRing(path=path, clock=clock)
    replace(path, f"ann, {digest('new')}")
    clock.now = 0.9
    assert (ring.find(b"old"), ring.find(b"new")) == ("ann", None)
    clock.now = 1.0
    assert (ring.find(b"old"), ring.find(b"new")) == (None, "ann")


def test_damaged_or_missing_file_keeps_the_old_keys_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys", Clock()
    path.write_text(f"ann, {digest('k')}")
    ring = KeyRing(path=path, clock=clock)
    replace(path, "damaged")
    for clock.now in (1.0, 2.0, 3.0):
        assert ring.find(b"k") == "ann"
    path.unlink()
    for clock.now in (4.0, 5.0, 6.0):
        assert ring.find(b"k") == "ann"
    assert [record.message.split(":")[0] for record in caplog.records] == ["the API keys stay as they were"] * 2
    path.write_text(f"bob, {digest('k')}")
    clock.now = 7.0
    assert ring.find(b"k") == "bob"


def test_every_key_is_compared_in_constant_time_also_behind_a_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("\n".join(f"k{i}, {digest(str(i))}" for i in range(5)))
    ring = KeyRing(path=path)
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(keys_module, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    for presented in (b"0", b"4", b"unknown"):
        compared.clear()
        ring.find(presented)
        assert [len(each) for pair in compared for each in pair] == [32] * 10
