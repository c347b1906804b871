"""`tritserve inspect`: its numbers are those of the library."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tritserve.cli.inspect import app, describe
from tritserve.kv_dtype import KvDtype
from tritserve.model.packed_file import open_packed
from tritserve.model.shapes import SHAPES, write_random_model
from tritserve.native.lib import BLOCK_TOKENS, Model

BLOCK_RECORD_BYTES = 64
"""Seal, hash and checksum of a block, which stand in front of the KV data."""


@pytest.mark.parametrize("shape", ["tiny", "tiny-llama", "small"])
def test_bytes_per_token_are_what_the_library_reads_and_stores(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "model.trit"
    write_random_model(path, SHAPES[shape])
    with open_packed(path) as packed:
        found = describe(packed)
        with Model(packed.fd, packed.header.architecture, packed.header.tensors) as model:
            assert found["body_bytes_per_token"] == model.body_bytes
            assert found["head_bytes_per_token"] == model.head_bytes
            stored = {}
            for dtype in KvDtype:
                many, few = model.kv_region_bytes(64 * 1024 + 64, dtype), model.kv_region_bytes(64, dtype)
                stored[dtype.name.lower()] = ((many - few) // (64 * 1024) - BLOCK_RECORD_BYTES) // BLOCK_TOKENS
            assert found["kv_bytes_per_token"] == stored


def test_object_and_table_describe_the_same_model(tmp_path: Path) -> None:
    path = tmp_path / "model.trit"
    write_random_model(path, SHAPES["tiny"])
    result = CliRunner().invoke(app, [str(path), "--json", "--cache-dir", str(tmp_path)], catch_exceptions=False)
    described = json.loads(result.stdout)
    assert described["architecture"]["hidden"] == 64
    assert described["source"] == "bitnet, random"
    table = CliRunner().invoke(app, [str(path), "--cache-dir", str(tmp_path)], catch_exceptions=False).stdout
    assert f"{described['ternary_weights']:,}" in table
    assert "t2_p64g4 v1" in table
