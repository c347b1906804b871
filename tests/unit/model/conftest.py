"""Make the oracle importable, and a small checkpoint and packed model to hand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tritserve.model.cache import load_or_convert
from tritserve.model.random_checkpoint import write_random_checkpoint
from tritserve.model.shapes import SHAPES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "oracle"))


@pytest.fixture(scope="session")
def tiny_origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A packed checkpoint of the tiny shape, and its conversion; not to be changed."""
    base = tmp_path_factory.mktemp("tiny")
    write_random_checkpoint(base / "checkpoint", SHAPES["tiny"], 1)
    return base / "checkpoint", load_or_convert(base / "checkpoint", base / "cache")


@pytest.fixture
def tiny_checkpoint(tiny_origin: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint."""
    return Path(shutil.copytree(tiny_origin[0], tmp_path / "checkpoint"))


@pytest.fixture
def tiny_packed(tiny_origin: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the tiny packed model."""
    return Path(shutil.copy(tiny_origin[1], tmp_path / "tiny.trit"))
