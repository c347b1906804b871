"""Measure the error of integer attention and of the integer head against float64, beside that of bf16.

    python benchmarks/numeric_error.py

The formats are those of docs/numerics.md as modelled in tests/oracle/number_formats.py, which the tests compare with the library.
Inputs: queries, keys, values and hidden rows of the demo model on a story, and random ones of BitNet b1.58 2B4T's shape, plain and with
channels that stick out. An error is the L2 norm of the difference over that of the exact result, per query and head, or per row of logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

from number_formats import bf16, bf16_attention, bf16_head, integer_attention, integer_head  # noqa: E402
from numpy_model import Layer, NumpyModel, TernaryLinear, attention, rotate  # noqa: E402

from tritserve.model.checkpoints.hf import HfCheckpoint, open_hf  # noqa: E402
from tritserve.model.header import TensorKind  # noqa: E402
from tritserve.model.hub import DEMO_CHECKPOINT  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

NUM_TOKENS = 1024
KINDS = {
    "q": TensorKind.Q,
    "k": TensorKind.K,
    "v": TensorKind.V,
    "o": TensorKind.O,
    "gate": TensorKind.GATE,
    "up": TensorKind.UP,
    "down": TensorKind.DOWN,
}
NORMS = {
    "input_layernorm": TensorKind.NORM_ATTN,
    "post_attention_layernorm": TensorKind.NORM_FFN,
    "attn_sub_norm": TensorKind.NORM_ATTN_SUB,
    "ffn_sub_norm": TensorKind.NORM_FFN_SUB,
}
seen: list[tuple[Array, Array, Array]] = []
hidden: list[Array] = []


class Recording(NumpyModel):
    """Keeps what goes into attention and head."""

    def _attend(self, q: Array, k: Array, v: Array) -> Array:
        seen.append((q, k, v))
        return attention(q, k, v)

    def _head(self, h: Array) -> Array:
        hidden.append(h)
        return super()._head(h)


def demo_model(source: HfCheckpoint) -> Recording:
    """Read the demo checkpoint into the numpy model."""
    a = source.description.architecture
    embedding = source.rows(TensorKind.EMBED, 0, a.vocab)
    layers = [
        Layer(
            **{name: TernaryLinear(*source.linear(kind, at)) for name, kind in KINDS.items()},
            **{name: source.vector(kind, at) for name, kind in NORMS.items()},
        )
        for at in range(a.n_layers)
    ]
    return Recording(
        n_heads=a.n_heads,
        n_kv_heads=a.n_kv_heads,
        head_dim=a.head_dim,
        rope_theta=source.description.rope_theta,
        norm_eps=a.norm_eps,
        activation="relu2",
        layers=layers,
        norm=source.vector(TensorKind.NORM_FINAL, -1),
        embedding=embedding,
        head=embedding,
    )


def story_tokens() -> list[int]:
    """Return the tokens of the stored stories, one after another."""
    lines = (ROOT / "tests/golden/demo_slice.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    text = "<|begin_of_text|>" + "<|end_of_text|>".join(json.loads(line)["text"] for line in lines)
    tokenizer = Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
    return list(tokenizer.encode(text, add_special_tokens=False).ids[:NUM_TOKENS])


def random_attention(rng: np.random.Generator, outlier: float) -> tuple[Array, Array, Array]:
    """Draw q, k, v of 2B4T's heads (20 query, 5 KV, of 128); four channels of q and k and of v are ``outlier`` times larger."""
    drawn = []
    for heads, rotated in ((20, True), (5, True), (5, False)):
        x = rng.normal(0.0, 1.0, (NUM_TOKENS, heads, 128))
        x[:, :, rng.choice(128, 4, replace=False)] *= outlier
        drawn.append(rotate(x, 5e5) if rotated else x)
    q, k, v = drawn
    spread = (q[-1, 0] @ k[:, 0].T / 128**0.5).std()
    return q * (3.0 / spread), k, v  # scores with a standard deviation of 3: neither uniform nor one-hot


def errors(got: Array, exact: Array) -> dict[str, float]:
    """Return the median and the largest relative error over the last axis."""
    relative = np.linalg.norm(got - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    return {"median": float(np.median(relative)), "max": float(relative.max())}


def compare(
    what: str,
    inputs: list[tuple[Any, ...]],
    exact: Callable[..., Array],
    ours: Callable[..., Array],
    half: Callable[..., Array],
) -> None:
    """Print one row: the worst of several inputs."""
    worst: dict[str, float] = {}
    for arguments in inputs:
        truth = exact(*arguments)
        for name, function in (("int16", ours), ("bf16", half)):
            for statistic, value in errors(function(*arguments), truth).items():
                key = f"{name}_{statistic}"
                worst[key] = max(worst.get(key, 0.0), value)
    ratio = worst["bf16_median"] / worst["int16_median"]
    print(
        json.dumps({"what": what} | {key: f"{value:.1e}" for key, value in worst.items()} | {"ratio": f"{ratio:.0f}"})
    )


def float_head(h: Array, head: NDArray[np.float32]) -> Array:
    """Return exact logits."""
    return h @ head.astype(np.float64).T


def main() -> None:
    """Print a JSON object per comparison."""
    rng = np.random.default_rng(0)
    with open_hf(DEMO_CHECKPOINT) as source:
        model = demo_model(source)
    model.logits(story_tokens())
    compare("attention, demo model, 5 layers", list(seen), attention, integer_attention, bf16_attention)
    for outlier in (1.0, 10.0, 30.0):
        inputs = [random_attention(rng, outlier)]
        compare(
            f"attention, 20/5 heads of 128, outliers x{outlier:g}", inputs, attention, integer_attention, bf16_attention
        )
    compare("head, demo model", [(hidden[0], model.head)], float_head, integer_head, bf16_head)
    for outlier in (1.0, 10.0, 30.0):
        h = rng.normal(0.0, 1.0, (64, 2560))
        h[:, rng.choice(2560, 8, replace=False)] *= outlier
        head = bf16(rng.normal(0.0, 0.5, (8192, 2560))).astype(np.float32)
        compare(f"head, hidden 2560, outliers x{outlier:g}", [(h, head)], float_head, integer_head, bf16_head)


if __name__ == "__main__":
    main()
