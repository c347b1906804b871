"""The packed file's reader: what conversion wrote is read back, and whatever else is refused without harm."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritserve.errors import ModelFileError
from tritserve.model.packed_file import MAX_HEADER_BYTES, PRELUDE_BYTES, Prelude, open_packed, verify_payload

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def prelude_of(path: Path) -> Prelude:
    return Prelude.decode(path.read_bytes()[:PRELUDE_BYTES])


def header_of(path: Path) -> dict[str, Any]:
    content, prelude = path.read_bytes(), prelude_of(path)
    return msgspec.json.decode(content[prelude.header_offset :], type=dict[str, Any])


def with_header(path: Path, raw: bytes) -> Path:
    """Replace the header by ``raw`` with a prelude that agrees, as an attacker would."""
    offset = prelude_of(path).header_offset
    payload = path.read_bytes()[PRELUDE_BYTES:offset]
    prelude = Prelude(len(raw), offset, offset + len(raw), hashlib.sha256(raw).digest())
    path.write_bytes(prelude.encode() + payload + raw)
    return path


def refuse(path: Path, match: str | None = None) -> None:
    with pytest.raises(ModelFileError, match=match), open_packed(path) as model:
        model.read_tokenizer()  # checked against its checksum when it is read


def test_a_converted_model_is_whole(tiny_packed: Path) -> None:
    with open_packed(tiny_packed) as model:
        verify_payload(model)
        assert model.header.special_tokens.eos == [257, 258]
        assert model.header.generation.temperature == 0.6
        assert model.header.known_answer is not None
        assert model.header.known_answer.token_ids == [16, 48, 80, 113, 145, 178, 210, 242]
        assert b'"BPE"' in model.read_tokenizer()
        assert all(tensor.offset % 64 == 0 for tensor in model.header.tensors)
    with pytest.raises(ModelFileError, match="closed"):
        _ = model.fd


def test_the_reader_needs_neither_numpy_nor_the_library(tiny_packed: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tritserve.model.packed_file import open_packed\n"
        "open_packed(Path(sys.argv[1])).close()\n"
        "sys.exit(any(name == 'numpy' or name.startswith('tritserve.native') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code, tiny_packed], check=False).returncode == 0


def test_a_file_cut_at_any_boundary_is_refused(tiny_packed: Path) -> None:
    content, prelude = tiny_packed.read_bytes(), prelude_of(tiny_packed)
    starts = [tensor["offset"] for tensor in header_of(tiny_packed)["tensors"]]
    for cut in {0, 1, 8, 63, 64, prelude.header_offset, prelude.header_offset + 1, len(content) - 1, *starts}:
        tiny_packed.write_bytes(content[:cut])
        refuse(tiny_packed)
    tiny_packed.write_bytes(content + b"\0")
    refuse(tiny_packed, "cut off or changed")


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(("field", "form"), [(8, "<I"), (12, "<I"), (16, "<Q"), (24, "<Q")])
def test_hostile_sizes_in_the_prelude_are_refused(tiny_packed: Path, field: int, form: str, value: int) -> None:
    content = bytearray(tiny_packed.read_bytes())
    value %= 2 ** (8 * struct.calcsize(form))
    if struct.pack(form, value) == content[field : field + struct.calcsize(form)]:
        open_packed(tiny_packed).close()  # the value it has
        return
    struct.pack_into(form, content, field, value)
    tiny_packed.write_bytes(content)
    refuse(tiny_packed)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(tiny_packed: Path, tiny_origin: tuple[Path, Path], data: st.DataObject) -> None:
    content = bytearray(tiny_origin[1].read_bytes())
    prelude = prelude_of(tiny_origin[1])
    place = st.one_of(
        st.integers(0, PRELUDE_BYTES - 1),
        st.integers(prelude.header_offset, len(content) - 1),
        st.integers(PRELUDE_BYTES, prelude.header_offset - 1),
    )
    at = data.draw(place)
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    tiny_packed.write_bytes(content)
    try:
        with open_packed(tiny_packed) as model:
            verify_payload(model)
            # only the zeros between two parts carry no checksum
            inside = [(t.offset, t.bytes) for t in model.header.tensors]
            blob = model.header.tokenizer
            assert blob is not None
            inside.append((blob.offset, blob.bytes))
            assert not any(offset <= at < offset + count for offset, count in inside)
            assert PRELUDE_BYTES <= at < prelude.header_offset
    except ModelFileError:
        pass


def _set(*path: str | int) -> Callable[[dict[str, Any], Any], None]:
    def change(header: dict[str, Any], value: object) -> None:
        place: Any = header
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


NUMBERS = [
    *(("tensors", 5, name) for name in ("kind", "layer", "layout", "layout_version", "n", "k", "offset", "bytes")),
    *(
        ("architecture", name)
        for name in ("hidden", "intermediate", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab")
    ),
    ("architecture", "max_positions"),
    ("tokenizer", "offset"),
    ("tokenizer", "bytes"),
    ("special_tokens", "bos"),
]


@pytest.mark.parametrize("value", [*HOSTILE, -1, 2**64, 2**80, 1.5, 1e308, "1", None, True, []])
@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(map(str, place)))
def test_hostile_numbers_in_the_header_are_refused(
    tiny_packed: Path, place: tuple[str | int, ...], value: object
) -> None:
    header = header_of(tiny_packed)
    before = msgspec.json.encode(header)
    _set(*place)(header, value)
    changed = msgspec.json.encode(_plain(header))
    is_token = place == ("special_tokens", "bos") and (value is None or (type(value) is int and value in (0, 1)))
    if is_token or changed == before:
        open_packed(with_header(tiny_packed, changed)).close()
        return
    refuse(with_header(tiny_packed, changed))


def _plain(value: Any) -> Any:
    """Integers beyond 64 bit as raw JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and abs(value) >= 2**64:
        return msgspec.Raw(str(value).encode())
    return value


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing tensor": (lambda h: h["tensors"].pop(), "missing"),
    "tensor twice": (lambda h: h["tensors"].append(h["tensors"][0]), "twice"),
    "overlap": (lambda h: h["tensors"][3].update(offset=h["tensors"][2]["offset"]), "overlap"),
    "odd offset": (lambda h: h["tensors"][3].update(offset=h["tensors"][3]["offset"] + 4), "multiple of 64"),
    "into the prelude": (lambda h: h["tensors"][0].update(offset=0), "overlap"),
    "past the payload": (lambda h: h["tensors"][0].update(offset=2**40), "leave the payload"),
    "offset that wraps": (lambda h: h["tensors"][0].update(offset=2**62 - 64), "leave the payload"),
    "scale 0": (lambda h: h["tensors"][5].update(scale=0.0), "scale"),
    "scale negative": (lambda h: h["tensors"][5].update(scale=-1.0), "scale"),
    "scale not float32": (lambda h: h["tensors"][5].update(scale=0.1), "float32"),
    "scale too large": (lambda h: h["tensors"][5].update(scale=1e300), "scale"),
    "scale of a norm": (lambda h: h["tensors"][4].update(scale=2.0), "expected 1"),
    "eos": (lambda h: h["special_tokens"].update(eos=[259]), "vocabulary"),
    "pad": (lambda h: h["special_tokens"].update(pad=2**31 - 1), "vocabulary"),
    "known answer": (lambda h: h["known_answer"].update(token_ids=[259] * 8), "vocabulary"),
    "weights name": (lambda h: h.update(weights_sha256="0" * 64), "weights_sha256"),
    "heads": (lambda h: h["architecture"].update(n_kv_heads=3), "divisor"),
    "unknown field": (lambda h: h.update(surprise=1), "unknown field"),
    "tokenizer over a tensor": (lambda h: h["tokenizer"].update(offset=h["tensors"][0]["offset"]), "overlap"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_header_that_contradicts_itself_is_refused(tiny_packed: Path, name: str) -> None:
    change, match = CHANGES[name]
    header = header_of(tiny_packed)
    change(header)
    refuse(with_header(tiny_packed, msgspec.json.encode(header)), match)


@pytest.mark.parametrize(
    "raw",
    [b"{}", b"[]", b"null", b"{", b"\xff\xfe", b'{"a":' * 100_000, b"[" * 1_000_000, b'"' + b"a" * 1000, b"NaN"],
    ids=["empty", "list", "null", "cut", "not utf-8", "deep objects", "deep lists", "open string", "nan"],
)
def test_json_that_is_no_header_is_refused(tiny_packed: Path, raw: bytes) -> None:
    refuse(with_header(tiny_packed, raw), "header")


def test_a_header_over_the_cap_is_refused_unread(tiny_packed: Path) -> None:
    refuse(with_header(tiny_packed, b" " * (MAX_HEADER_BYTES + 1)), "expected 1 to")


def test_links_pipes_sockets_folders_and_devices_are_refused_before_they_are_opened(
    tiny_packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link.trit").symlink_to(tiny_packed)
    refuse(tmp_path / "link.trit", "symbolic link")
    os.mkfifo(tmp_path / "pipe.trit")
    refuse(tmp_path / "pipe.trit", "named pipe")
    refuse(tmp_path, "folder")
    refuse(tmp_path / "none.trit", "No such file")
    refuse(Path("/dev/zero"), "character device")
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.trit")
        refuse(tmp_path / "s.trit", "socket")


def test_an_empty_file_and_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.trit"
    path.write_bytes(b"")
    refuse(path, "0 bytes")
    path.write_bytes(b"GGUF" + bytes(100))
    refuse(path, "not a packed model")


def test_a_hostile_header_allocates_little(tiny_packed: Path) -> None:
    header = header_of(tiny_packed)
    header["architecture"].update(vocab=2**24, hidden=131_072, intermediate=131_072, n_layers=1024, max_positions=2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(with_header(tiny_packed, msgspec.json.encode(header)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024


def test_damaged_payload_is_found_by_name(tiny_packed: Path) -> None:
    tensor = header_of(tiny_packed)["tensors"][7]
    content = bytearray(tiny_packed.read_bytes())
    content[tensor["offset"] + 3] ^= 0x10
    tiny_packed.write_bytes(content)
    with open_packed(tiny_packed) as model, pytest.raises(ModelFileError, match=r"v_proj.*damaged"):
        verify_payload(model)
