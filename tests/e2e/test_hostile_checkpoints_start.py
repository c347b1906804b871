"""Damaged and hostile checkpoints from the command line: no start, one clear line, an exit status that is not 0."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from live_server import environment

import tritserve.demo

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO = Path(tritserve.demo.__file__).parent / "checkpoint"


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096])


def flip_bits_of_the_header(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[3] ^= 0x40  # the header's length
    (folder / "model.safetensors").write_bytes(data)


def change_a_shape(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_size=json.loads((folder / "config.json").read_text())["hidden_size"] * 2)


def leave_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def escape_the_sandbox(folder: Path) -> None:
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(folder / "escaped") + "') }}"
    edit_json(folder / "tokenizer_config.json", chat_template=template)


def loop_for_ever(folder: Path) -> None:
    template = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}"
    edit_json(folder / "tokenizer_config.json", chat_template=template)


def hold_nan(folder: Path) -> None:
    """The embedding's first values."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + length])["model.embed_tokens.weight"]
    assert entry["dtype"] == "BF16"
    begin = 8 + length + entry["data_offsets"][0]
    data[begin : begin + 64] = np.full(32, 0x7FC0, dtype="<u2").tobytes()
    path.write_bytes(data)


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_bits_of_the_header,
        change_a_shape,
        leave_the_folder,
        escape_the_sandbox,
        loop_for_ever,
        hold_nan,
        lose_the_tokenizer,
    ],
    ids=lambda damage: damage.__name__,
)
def test_hostile_checkpoint_is_refused_with_one_clear_line(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder)
    damage(folder)
    done = subprocess.run(
        [sys.executable, "-m", "tritserve", "serve", str(folder), "--port", "0", "--log-format", "text"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env=environment(tmp_path / "cache"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tritserve: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.rstrip().endswith(lines[0])
    assert 20 < len(lines[0]) < 600
    assert not (folder / "escaped").exists()
