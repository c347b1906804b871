"""Checkpoint folders that lie: each is refused with a ModelFileError, quickly, with nothing executed and little allocated."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tritserve.errors import ModelFileError
from tritserve.model.checkpoints.hf import open_hf
from tritserve.model.checkpoints.safetensors import MAX_HEADER_BYTES, open_safetensors
from tritserve.model.header import CONVERTER_VERSION, TensorKind
from tritserve.model.pack import pack
from tritserve.model.random_checkpoint import write_random_checkpoint, write_safetensors
from tritserve.model.shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
Q = "model.layers.0.self_attn.q_proj.weight"


def refuse(folder: Path, match: str | None = None) -> None:
    with pytest.raises(ModelFileError, match=match):
        convert(folder)


def convert(folder: Path) -> None:
    with open_hf(folder) as source:
        pack(source, folder / "out.trit")


def weights_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def set_header(folder: Path, header: dict[str, Any] | bytes, payload: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + payload)


def change_config(folder: Path, name: str = "config.json", **values: object) -> None:
    config = json.loads((folder / name).read_text())
    config.update(values)
    (folder / name).write_text(json.dumps(config))


def replace_tensor(folder: Path, name: str, dtype: str, array: np.ndarray[Any, Any]) -> None:
    """Write the weights again with one tensor changed, added, or (an empty dtype) removed."""
    header, payload = weights_of(folder)
    stored = {"U8": np.uint8, "BF16": np.uint16, "F32": np.float32}
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]] = {}
    for key, entry in header.items():
        if key != "__metadata__":
            raw = np.frombuffer(payload[slice(*entry["data_offsets"])], stored[entry["dtype"]]).reshape(entry["shape"])
            tensors[key] = (
                ("BF16", (raw.astype(np.uint32) << 16).view(np.float32))
                if entry["dtype"] == "BF16"
                else (entry["dtype"], raw)
            )
    tensors.pop(name, None)
    if dtype:
        tensors[name] = (dtype, array)
    write_safetensors(folder / "model.safetensors", tensors)


# --- the container -------------------------------------------------------------------------------------------------------


def test_a_file_cut_at_any_boundary_is_refused(tiny_checkpoint: Path) -> None:
    path = tiny_checkpoint / "model.safetensors"
    content = path.read_bytes()
    header, _ = weights_of(tiny_checkpoint)
    start = 8 + int.from_bytes(content[:8], "little")
    ends = [start + entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    for cut in {0, 1, 7, 8, 9, start - 1, start, *ends, len(content) - 1} - {len(content)}:
        path.write_bytes(content[:cut])
        refuse(tiny_checkpoint)
    path.write_bytes(content + b"\0")
    refuse(tiny_checkpoint, "bytes of data")


@pytest.mark.parametrize("length", HOSTILE)
def test_a_hostile_header_length_is_refused(tiny_checkpoint: Path, length: int) -> None:
    path = tiny_checkpoint / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refuse(tiny_checkpoint)


def test_a_header_over_the_cap_is_refused_unread(tiny_checkpoint: Path) -> None:
    set_header(tiny_checkpoint, b"{" + b" " * MAX_HEADER_BYTES + b"}", b"")
    refuse(tiny_checkpoint, "header length")


@pytest.mark.parametrize("value", [*HOSTILE, -1, 2**64, 2**80, 1.5, "1", None, [], float("nan")])
@pytest.mark.parametrize("place", [("shape", 0), ("shape", 1), ("data_offsets", 0), ("data_offsets", 1)])
def test_hostile_extents_are_refused(tiny_checkpoint: Path, place: tuple[str, int], value: object) -> None:
    header, payload = weights_of(tiny_checkpoint)
    assert header[Q][place[0]][place[1]] != value
    header[Q][place[0]][place[1]] = value
    set_header(tiny_checkpoint, header, payload)
    refuse(tiny_checkpoint)


@pytest.mark.parametrize(
    "shape",
    [
        [],
        [64],
        [0, 64],
        [2**32, 2**32],
        [2**32 + 1, 2**32 - 1],
        [2**61, 8],
        [1] * 9,
        [2**31, 2**31, 4],
        [16, 64, 1],
        [64, 16],
    ],
)
def test_shapes_whose_product_wraps_or_lies_are_refused(tiny_checkpoint: Path, shape: list[int]) -> None:
    header, payload = weights_of(tiny_checkpoint)
    header[Q]["shape"] = shape
    set_header(tiny_checkpoint, header, payload)
    refuse(tiny_checkpoint)


def test_overlaps_and_holes_are_refused(tiny_checkpoint: Path) -> None:
    header, payload = weights_of(tiny_checkpoint)
    names = [name for name in header if name != "__metadata__"]
    first, second = header[names[0]]["data_offsets"], header[names[1]]["data_offsets"]
    header[names[1]]["data_offsets"] = [first[0], first[0] + second[1] - second[0]]
    set_header(tiny_checkpoint, header, payload)
    refuse(tiny_checkpoint, "expected to begin at")


def test_duplicate_names_are_refused(tiny_checkpoint: Path) -> None:
    header, payload = weights_of(tiny_checkpoint)
    raw = json.dumps(header)
    set_header(tiny_checkpoint, (raw[:-1] + f', "{Q}": {json.dumps(header[Q])}}}').encode(), payload)
    refuse(tiny_checkpoint, "occurs twice")


@pytest.mark.parametrize(
    "raw",
    [b"[]", b"null", b"{}", b"{", b"\xff\xfe\xfa", b"[" * 200_000, b'{"a":' * 100_000, b'{"a": 1}', b'{"a": {}}'],
    ids=["list", "null", "empty", "cut", "not utf-8", "deep lists", "deep objects", "number", "no fields"],
)
def test_json_that_is_no_header_is_refused(tiny_checkpoint: Path, raw: bytes) -> None:
    set_header(tiny_checkpoint, raw, b"")
    refuse(tiny_checkpoint)


def test_too_many_entries_are_refused(tiny_checkpoint: Path) -> None:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    set_header(tiny_checkpoint, {f"t{i}": entry for i in range(70_000)}, b"")
    refuse(tiny_checkpoint, "at most 65536")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_flipped_bits_give_an_error_or_a_model_never_a_crash(
    tiny_checkpoint: Path, tiny_origin: tuple[Path, Path], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"]))
    content = bytearray((tiny_origin[0] / name).read_bytes())
    limit = min(len(content), 8 + int.from_bytes(content[:8], "little") if name == "model.safetensors" else 2000)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, limit - 1))] ^= 1 << data.draw(st.integers(0, 7))
    shutil.copytree(tiny_origin[0], tiny_checkpoint, dirs_exist_ok=True)
    (tiny_checkpoint / name).write_bytes(content)
    with contextlib.suppress(ModelFileError):
        open_hf(tiny_checkpoint).close()


# --- names and kinds of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "/etc/x.safetensors",
        "..",
        "",
        "a/b.safetensors",
        "a\\b.safetensors",
        "x.bin",
        "x.safetensors\0",
    ],
)
def test_shard_names_that_leave_the_folder_are_refused(tiny_checkpoint: Path, name: str) -> None:
    (tiny_checkpoint.parent / "model.safetensors").write_bytes((tiny_checkpoint / "model.safetensors").read_bytes())
    (tiny_checkpoint / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {Q: name}}
    (tiny_checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    refuse(tiny_checkpoint, "shard name")


def shard(
    folder: Path, names: tuple[str, str] = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
) -> dict[str, str]:
    """Split the weights over two files; return the weight map."""
    header, payload = weights_of(folder)
    entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
    weight_map = {}
    for number, part in enumerate((entries[:7], entries[7:])):
        base = part[0][1]["data_offsets"][0]
        moved = {
            name: entry | {"data_offsets": [offset - base for offset in entry["data_offsets"]]} for name, entry in part
        }
        raw = json.dumps(moved).encode()
        data = payload[base : part[-1][1]["data_offsets"][1]]
        (folder / names[number]).write_bytes(len(raw).to_bytes(8, "little") + raw + data)
        weight_map.update(dict.fromkeys(moved, names[number]))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_shards_give_the_same_model(tiny_checkpoint: Path, tiny_origin: tuple[Path, Path]) -> None:
    shard(tiny_checkpoint)
    with open_hf(tiny_checkpoint) as source, open_hf(tiny_origin[0]) as whole:
        ours, theirs = (pack(s, tiny_checkpoint / "out.trit") for s in (source, whole))
    assert ours.weights_sha256 == theirs.weights_sha256
    assert ours.known_answer == theirs.known_answer


def test_an_index_that_disagrees_with_its_shards_is_refused(tiny_checkpoint: Path) -> None:
    weight_map = shard(tiny_checkpoint)
    index = tiny_checkpoint / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map | {"x": weight_map[Q]}}))
    refuse(tiny_checkpoint, "not in any shard")
    index.write_text(json.dumps({"weight_map": {name: file for name, file in weight_map.items() if name != Q}}))
    refuse(tiny_checkpoint, "not listed")
    index.write_text(json.dumps({"weight_map": weight_map | {Q: "model-00002-of-00002.safetensors"}}))
    refuse(tiny_checkpoint, "not listed")
    (tiny_checkpoint / "model-00002-of-00002.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": weight_map}))
    refuse(tiny_checkpoint, "No such file")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"]
)
def test_pipes_links_out_and_devices_are_refused_before_they_are_opened(
    tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    path = tiny_checkpoint / name
    path.rename(tmp_path / name)
    os.mkfifo(path)
    refuse(tiny_checkpoint, "named pipe")
    path.unlink()
    path.symlink_to(tmp_path / name)
    refuse(tiny_checkpoint, "symbolic link")
    path.unlink()
    path.symlink_to("/dev/zero")
    refuse(tiny_checkpoint, "symbolic link")
    path.unlink()
    path.symlink_to(path)
    refuse(tiny_checkpoint, "leads nowhere")
    path.unlink()
    path.mkdir()
    refuse(tiny_checkpoint, "folder")


def test_links_into_the_blobs_of_a_hub_cache_are_followed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models--owner--name"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, path in enumerate(sorted(tiny_checkpoint.iterdir())):
        path.rename(repo / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    convert(snapshot)


# The honest twin is converted first: what our own code and libraries compile or import on first use (msgspec evaluates the annotations
# of its structs) is over before the hook looks, so that any event at all while the other one is converted is its doing.
AUDITED_CONVERSION = """
import json, os, sys
from pathlib import Path
from tritserve.model.checkpoints.hf import open_hf
from tritserve.model.pack import pack

honest, folder, warm = map(Path, sys.argv[1:])
events, opened, watching = [], set(), False

def hook(event, args):
    if not watching:
        return
    if event in ("exec", "compile", "import", "marshal.loads", "pickle.find_class", "os.exec", "os.posix_spawn", "os.system"):
        events.append(f"{event} {args}")
    elif event.split(".")[0] in ("ctypes", "subprocess", "socket"):
        events.append(f"{event} {args}")
    elif event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        path = Path(os.fsdecode(args[0])).resolve()
        if path.is_relative_to(folder):
            opened.add(str(path.relative_to(folder)))

sys.addaudithook(hook)
with open_hf(honest) as source:
    pack(source, warm)
folder = folder.resolve()
watching = True
with open_hf(folder) as source:
    pack(source, folder / "out.trit")
watching = False
print(json.dumps(events))
print(json.dumps(sorted(opened)))
"""


def test_nothing_in_the_folder_is_executed_or_opened(
    tiny_checkpoint: Path, tiny_origin: tuple[Path, Path], tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    for name in ("modeling_bitnet.py", "configuration_bitnet.py", "__init__.py", "sitecustomize.py", "conftest.py"):
        (tiny_checkpoint / name).write_text(f"open({str(marker)!r}, 'w')")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        (tiny_checkpoint / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch " + os.fsencode(marker) + b"'\ntR.")
    change_config(tiny_checkpoint, auto_map={"AutoConfig": "configuration_bitnet.BitNetConfig"}, trust_remote_code=True)
    run = subprocess.run(
        [sys.executable, "-c", AUDITED_CONVERSION, tiny_origin[0], tiny_checkpoint, tmp_path / "warm.trit"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tiny_checkpoint,  # a module found through the working directory would be imported from there
    )
    assert not marker.exists()
    events, opened = map(json.loads, run.stdout.splitlines())
    assert events == []
    assert opened == [
        ".",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "out.trit.partial",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_pickle_files_alone_are_refused_by_name(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "model.safetensors").rename(tiny_checkpoint / "pytorch_model.bin")
    refuse(tiny_checkpoint, "pytorch_model.bin")


# --- tensors -------------------------------------------------------------------------------------------------------------

SCALE = Q + "_scale"
TENSOR_CHANGES: dict[str, tuple[str, str, Any, str]] = {
    "missing": (Q, "", None, "is missing"),
    "missing scale": (SCALE, "", None, "_scale is missing"),
    "missing norm": ("model.norm.weight", "", None, "is missing"),
    "code 3": (Q, "U8", np.full((16, 64), 0xFF, dtype=np.uint8), Q),
    "unpacked shape": (Q, "U8", np.zeros((64, 64), dtype=np.uint8), r"expected U8 \[16, 64\]"),
    "transposed": (Q, "U8", np.zeros((64, 16), dtype=np.uint8), "expected U8"),
    "norm of another width": ("model.norm.weight", "BF16", np.ones(68, dtype=np.float32), "expected BF16"),
    "integer norm": ("model.norm.weight", "U8", np.ones(64, dtype=np.uint8), "expected BF16"),
    "scale 0": (SCALE, "F32", np.zeros(1, dtype=np.float32), "positive"),
    "scale negative": (SCALE, "F32", -np.ones(1, dtype=np.float32), "positive"),
    "scale nan": (SCALE, "F32", np.full(1, np.nan, dtype=np.float32), "positive"),
    "scale infinite": (SCALE, "F32", np.full(1, np.inf, dtype=np.float32), "positive"),
    "scale of the wrong class": (SCALE, "F32", np.full(1, 62.5, dtype=np.float32), "linear_class"),
    "two scales": (SCALE, "F32", np.ones(2, dtype=np.float32), "one float"),
    "nan master": (Q, "F32", np.full((64, 64), np.nan, dtype=np.float32), Q),
    "masters beside a scale": (Q, "F32", np.full((64, 64), 0.3, dtype=np.float32), "other than -1, 0 and 1"),
    "nan norm": ("model.norm.weight", "F32", np.full(64, np.nan, dtype=np.float32), "not finite"),
    "nan embedding": ("model.embed_tokens.weight", "F32", np.full((259, 64), np.nan, dtype=np.float32), "finite"),
    "bias": ("model.layers.0.self_attn.q_proj.bias", "F32", np.ones(64, dtype=np.float32), "unknown"),
    "norm inside a linear": (
        "model.layers.0.self_attn.q_proj.rms_norm.weight",
        "F32",
        np.ones(64, dtype=np.float32),
        "unknown",
    ),
    "a layer too many": ("model.layers.2.input_layernorm.weight", "F32", np.ones(64, dtype=np.float32), "unknown"),
}


@pytest.mark.parametrize("name", TENSOR_CHANGES)
def test_wrong_tensors_are_refused_by_name(tiny_checkpoint: Path, name: str) -> None:
    tensor, dtype, array, match = TENSOR_CHANGES[name]
    replace_tensor(tiny_checkpoint, tensor, dtype, array)
    refuse(tiny_checkpoint, match)
    assert not list(tiny_checkpoint.glob("out.trit*"))


def test_codes_kept_as_floats_beside_their_scale_are_read(tiny_checkpoint: Path) -> None:
    with open_hf(tiny_checkpoint) as source:
        codes, scale = source.linear(TensorKind.Q, 0)
    replace_tensor(tiny_checkpoint, Q, "F32", codes.astype(np.float32))
    with open_hf(tiny_checkpoint) as source:
        again, scale_again = source.linear(TensorKind.Q, 0)
    assert np.array_equal(again, codes)
    assert scale_again == scale


# --- the description -----------------------------------------------------------------------------------------------------

CONFIG_CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "another architecture": ({"architectures": ["MixtralForCausalLM"]}, "architectures"),
    "no architecture": ({"architectures": []}, "architectures"),
    "activation": ({"hidden_act": "silu"}, "relu2"),
    "quantised otherwise": ({"quantization_config": {"quant_method": "gptq"}}, "bitnet"),
    "linear class": ({"quantization_config": {"quant_method": "bitnet", "linear_class": "x"}}, "linear_class"),
    "norm in linears": ({"quantization_config": {"quant_method": "bitnet", "use_rms_norm": True}}, "use_rms_norm"),
    "biases": ({"attention_bias": True}, "attention_bias"),
    "rope scaling": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
    "old rope scaling": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "linear"),
    "new rope scaling": ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "llama3"),
    "two thetas": ({"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}, "rope_theta"),
    "no theta": ({"rope_theta": None}, "rope_theta"),
    "theta 0": ({"rope_theta": 0.0}, "rope_theta"),
    "partial rotation": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "kv heads missing": ({"num_key_value_heads": None}, "num_key_value_heads"),
    "kv heads": ({"num_key_value_heads": 3}, "divisor"),
    "kv heads 0": ({"num_key_value_heads": 0}, "n_kv_heads"),
    "heads 0": ({"num_attention_heads": 0, "head_dim": None}, "heads"),
    "odd head": ({"head_dim": 15}, "head_dim"),
    "huge vocabulary": ({"vocab_size": 2**31}, "vocab"),
    "vocabulary below the tokenizer's": ({"vocab_size": 258}, "token id"),
    "huge context": ({"max_position_embeddings": 2**40}, "max_positions"),
    "eps 0": ({"rms_norm_eps": 0.0}, "norm_eps"),
    "hidden not a number": ({"hidden_size": "64"}, "hidden_size"),
    "bos": ({"bos_token_id": 259}, "bos_token_id"),
    "eos": ({"eos_token_id": [1, 2**31]}, "eos_token_id"),
    "eos negative": ({"eos_token_id": -2}, "eos_token_id"),
}


@pytest.mark.parametrize("name", CONFIG_CHANGES)
def test_a_config_that_cannot_be_served_is_refused_with_its_key(tiny_checkpoint: Path, name: str) -> None:
    values, match = CONFIG_CHANGES[name]
    change_config(tiny_checkpoint, **values)
    refuse(tiny_checkpoint, match)


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "head_dim", "max_position_embeddings"],
)
@pytest.mark.parametrize("value", [*HOSTILE, -1, 2**80])
def test_hostile_dimensions_are_refused_without_a_large_allocation(tiny_checkpoint: Path, key: str, value: int) -> None:
    change_config(tiny_checkpoint, **{key: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if key == "max_position_embeddings" and value == 1:
        convert(tiny_checkpoint)
        return
    refuse(tiny_checkpoint)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff", b"1e999"])
def test_small_files_that_are_no_json_objects_are_refused_by_name(tiny_checkpoint: Path, name: str, raw: bytes) -> None:
    (tiny_checkpoint / name).write_bytes(raw)
    refuse(tiny_checkpoint, name)


@pytest.mark.parametrize("values", [{"temperature": -1.0}, {"top_p": 2.0}, {"top_k": -1}, {"eos_token_id": "x"}])
def test_generation_defaults_out_of_range_are_refused(tiny_checkpoint: Path, values: dict[str, object]) -> None:
    change_config(tiny_checkpoint, "generation_config.json", **values)
    refuse(tiny_checkpoint)


def test_a_missing_small_file(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / "generation_config.json").unlink()
    (tiny_checkpoint / "tokenizer_config.json").unlink()
    convert(tiny_checkpoint)
    (tiny_checkpoint / "tokenizer.json").unlink()
    refuse(tiny_checkpoint, "tokenizer.json")


# --- what must be accepted -------------------------------------------------------------------------------------------------


def _rope_parameters(folder: Path) -> None:
    change_config(folder, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


SAME: dict[str, Callable[[Path], None]] = {
    "other spelling": lambda folder: change_config(folder, architectures=["BitnetForCausalLM"]),
    "rope_parameters": _rope_parameters,
    "both thetas": lambda folder: change_config(folder, rope_parameters={"rope_theta": 10000.0}, rope_scaling=None),
    "unknown keys": lambda folder: change_config(folder, initializer_range=0.02, use_cache=True, auto_map={"a": "b"}),
}


@pytest.mark.parametrize("name", SAME)
def test_spellings_that_mean_the_same_give_the_same_weights(
    tiny_checkpoint: Path, tiny_origin: tuple[Path, Path], name: str
) -> None:
    SAME[name](tiny_checkpoint)
    with open_hf(tiny_checkpoint) as source, open_hf(tiny_origin[0]) as plain:
        ours, theirs = (pack(s, tiny_checkpoint / "out.trit") for s in (source, plain))
    assert ours.weights_sha256 == theirs.weights_sha256


@pytest.mark.parametrize("shape", ["tiny", "tiny-llama"])
def test_both_meanings_of_weight_scale_give_the_same_scale(tmp_path: Path, shape: str) -> None:
    for linear_class in ("autobitlinear", "bitlinear"):
        write_random_checkpoint(tmp_path / linear_class, SHAPES[shape], 5, linear_class=linear_class)
    with open_hf(tmp_path / "autobitlinear") as multiply, open_hf(tmp_path / "bitlinear") as divide:
        (codes, scale), (other_codes, other_scale) = multiply.linear(TensorKind.UP, 1), divide.linear(TensorKind.UP, 1)
    assert np.array_equal(codes, other_codes)
    assert other_scale == pytest.approx(scale, rel=2.0**-7)  # both were rounded to bf16
    assert CONVERTER_VERSION >= 1


def test_float_dtypes_are_read_exactly(tmp_path: Path) -> None:
    values = np.array([[1.5, -(2.0**-130), 3.0e38, 0.0], [-0.0, 1.0, 65280.0, -7.0]], dtype=np.float32)
    values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    half = np.array([[1.5, 6e-8, 65504.0, -0.25]], dtype=np.float16)
    write_safetensors(tmp_path / "model.safetensors", {"b": ("BF16", values), "h": ("F16", half), "f": ("F32", values)})
    with open_safetensors(tmp_path) as weights:
        assert np.array_equal(weights.read_floats("b"), values)
        assert np.array_equal(weights.read_floats("f"), values)
        assert np.array_equal(weights.read_floats("h"), half.astype(np.float32))
        assert np.array_equal(weights.read_float_rows("b", 1, 1), values[1:])
        with pytest.raises(ModelFileError, match="rows"):
            weights.read_float_rows("b", 1, 2)
