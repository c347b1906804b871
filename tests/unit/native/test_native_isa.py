"""Instruction sets: Python and C name the same ones, and say why one does not run."""

from __future__ import annotations

from typing import get_args

import pytest
from tiny_model import make_tiny_model

from tritserve.isa import Isa, IsaName
from tritserve.native import lib
from tritserve.native._trit import lib as c_lib
from tritserve.native.lib import Model
from tritserve.native.status import text_of


def test_python_and_c_know_the_same_instruction_sets() -> None:
    assert len(Isa) == c_lib.TRIT_ISA_COUNT + 1
    assert [text_of(c_lib.trit_isa_name(isa)) for isa in Isa] == [isa.label for isa in Isa] == list(get_args(IsaName))
    assert text_of(c_lib.trit_isa_name(len(Isa))) == "unknown"
    assert [Isa.named(isa.label) for isa in Isa] == list(Isa)


@pytest.mark.parametrize("isa", [isa for isa in Isa if isa >= Isa.REF], ids=lambda isa: isa.label)
def test_an_instruction_set_runs_or_names_its_reason(isa: Isa) -> None:
    problem = lib.isa_problem(isa)
    assert (problem is None) == lib.isa_supported(isa)
    assert problem is None or isa.label in problem


def test_every_op_has_a_kernel_on_what_runs_here() -> None:
    ops = lib.op_names()
    assert ops[:3] == ["gemv", "few", "gemm"]
    assert len(set(ops)) == len(ops)
    for isa in Isa:
        if isa is Isa.AUTO or lib.isa_supported(isa):
            assert all(text_of(c_lib.trit_isa_kernel(isa, op)) for op in range(len(ops)))
    assert all(name.endswith("__ref") for name in lib.isa_kernels(Isa.REF))


def test_calibration_tells_what_serves_and_leaves_a_named_choice_alone() -> None:
    tiny = make_tiny_model()
    with tiny.file() as fd:
        with Model(fd, tiny.arch, tiny.tensors, calibrate=True) as model:
            chosen = {timing.op: timing.kernel for timing in model.timings if timing.chosen}
            assert set(chosen.values()) <= set(model.kernels)
            assert len(chosen) == len({timing.op for timing in model.timings})
        with Model(fd, tiny.arch, tiny.tensors, isa=Isa.REF, calibrate=True) as model:
            assert model.timings == []
            assert model.kernels == lib.isa_kernels(Isa.REF)
