"""The torch model: its arithmetic, its gradients, the exported checkpoint and resuming."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from tritserve.demo.config import ModelConfig, TrainConfig  # noqa: E402
from tritserve.demo.export import checkpoint_tensors, export, load_exported  # noqa: E402
from tritserve.demo.network import (  # noqa: E402
    BitLinear,
    BitNet,
    _TernaryMatmul,
    bf16_rounded,
    quantise_rows,
    ternarise,
)
from tritserve.demo.optimizer import Optimizer, orthogonalise  # noqa: E402
from tritserve.demo.train import Position, load_checkpoint, save_checkpoint, train_step  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

TINY = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16,
)
CODES = [[1, -1, 0, 1], [0, 0, 1, -1], [-1, 1, 0, 0], [1, 1, 1, -1], [-1, 0, 0, 1], [0, -1, 1, 0], [1, 0, -1, -1]]
CODES += [[0, 1, -1, 1]]


def batch(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(seed))
    return [(ids[:, :-1], ids[:, 1:])]


def test_forward_equals_the_worked_example() -> None:
    x = torch.tensor([[0.3, -1.2, 0.05, 2.0]])
    x_q, s = quantise_rows(x)
    assert x_q.tolist() == [[19, -76, 3, 127]]
    assert s.item() == 63.5
    codes = torch.tensor(CODES, dtype=torch.float32)
    y = _TernaryMatmul.apply(x, codes, codes, torch.full((8,), 1.5))
    expected = [5.24409, -2.92913, -2.24409, -4.27559, 2.55118, 1.86614, -2.62205, 1.13386]
    assert y[0].tolist() == pytest.approx(expected, abs=5e-6)


def test_rounding_is_half_to_even_and_an_all_zero_row_is_safe() -> None:
    x_q, s = quantise_rows(torch.tensor([[0.5, 1.5, -2.5, 127.0], [0.0, 0.0, 0.0, 0.0]]))
    assert x_q.tolist() == [[0, 2, -2, 127], [0, 0, 0, 0]]
    assert s[1].item() == pytest.approx(127 / 1e-5)


def test_absmean_codes_are_ternary_with_the_mean_as_scale() -> None:
    codes, m = ternarise(torch.tensor([[1.0, -0.2, 0.3, -2.5]]))
    assert m.item() == 1.0
    assert codes.tolist() == [[1, 0, 0, -1]]


def test_gradients_pass_straight_through_both_roundings() -> None:
    generator = torch.Generator().manual_seed(1)
    linear = BitLinear(8, (4, 4), generator)
    x = torch.randn(5, 8, generator=generator, requires_grad=True)
    upstream = torch.randn(5, 8, generator=generator)
    linear(x).backward(upstream)
    x_q, s = quantise_rows(x.detach())
    parts = [ternarise(part) for part in linear.latent.detach().split([4, 4])]
    dequantised = torch.cat([codes * bf16_rounded(m) for codes, m in parts])
    torch.testing.assert_close(x.grad, upstream @ dequantised)
    torch.testing.assert_close(linear.latent.grad, upstream.T @ (x_q / s))


def test_later_tokens_do_not_change_earlier_logits() -> None:
    model = BitNet(TINY, seed=3)
    [(tokens, _)] = batch(3)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 64
    before, after = model(tokens).view(2, 16, -1), model(changed).view(2, 16, -1)
    torch.testing.assert_close(before[:, :10], after[:, :10])


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    stack = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(stack))
    assert values.min() > 0.3
    assert values.max() < 1.4


def test_training_lowers_the_loss() -> None:
    model = BitNet(TINY, seed=0)
    optimizer = Optimizer(model, TrainConfig())
    losses = [train_step(model.loss, optimizer, batch(0), 0.1) for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def test_exported_checkpoint_gives_the_logits_of_the_rounded_model(tmp_path: Path) -> None:
    model = BitNet(TINY, seed=5)
    export(model, tmp_path)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith("latent"):
                weight.copy_(bf16_rounded(weight))
    tokens = batch(5)[0][0]
    assert torch.equal(load_exported(tmp_path)(tokens), model(tokens))


def test_exported_tensors_have_the_names_shapes_and_types_of_the_packed_format(tmp_path: Path) -> None:
    tensors = checkpoint_tensors(BitNet(TINY))
    assert len(tensors) == 2 + 2 * (4 + 2 * 7)
    prefix = "model.layers.1."
    assert tensors[f"{prefix}mlp.down_proj.weight"].shape == (8, 48)
    assert tensors[f"{prefix}self_attn.k_proj.weight"].shape == (4, 32)
    assert tensors[f"{prefix}self_attn.k_proj.weight"].dtype == torch.uint8
    assert tensors[f"{prefix}mlp.gate_proj.weight_scale"].shape == (1,)
    assert tensors[f"{prefix}mlp.ffn_sub_norm.weight"].dtype == torch.bfloat16
    export(BitNet(TINY), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["quantization_config"]["linear_class"] == "autobitlinear"
    assert (config["bos_token_id"], config["eos_token_id"]) == (48, 49)


def test_resumed_run_has_the_same_next_loss(tmp_path: Path) -> None:
    config, path = TrainConfig(), tmp_path / "state.pt"
    model = BitNet(TINY, seed=0)
    optimizer = Optimizer(model, config)
    for seed in range(3):
        train_step(model.loss, optimizer, batch(seed), 0.2)
    save_checkpoint(path, model, optimizer, Position(step=3, tokens=96, seconds=4.5, shard=1, row=2, row_tokens=16))
    going_on = [train_step(model.loss, optimizer, batch(seed), 0.2) for seed in (3, 4)]

    resumed = BitNet(TINY, seed=99)
    resumed_optimizer = Optimizer(resumed, config)
    position = load_checkpoint(path, resumed, resumed_optimizer)
    assert (position.step, position.tokens, position.seconds) == (3, 96, 4.5)
    assert [train_step(resumed.loss, resumed_optimizer, batch(seed), 0.2) for seed in (3, 4)] == going_on
