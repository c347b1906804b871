"""Muon for the matrices, AdamW for the embedding and the norms.

Muon (Jordan et al. 2024): Nesterov momentum, then the nearest semi-orthogonal matrix by a quintic
Newton-Schulz iteration. Every part of a fused BitLinear is orthogonalised by itself.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritserve.demo.network import BitLinear, BitNet

if TYPE_CHECKING:
    from tritserve.demo.config import TrainConfig

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def orthogonalise(stack: Tensor) -> Tensor:
    """Bring the singular values of each matrix in (S, N, K) close to 1."""
    a, b, c = _NEWTON_SCHULZ
    wide = stack.shape[-2] <= stack.shape[-1]
    x = stack if wide else stack.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x if wide else x.mT


class Muon:
    """Update the latent matrices of all BitLinear modules in a model."""

    def __init__(self, model: BitNet, momentum: float) -> None:
        self.momentum = momentum
        self.linears = [module for module in model.modules() if isinstance(module, BitLinear)]
        self.buffers = [torch.zeros_like(linear.latent) for linear in self.linears]

    def step(self, lr: float, weight_decay: float) -> None:
        """Apply one update from the gradients; lr is the spectral norm of a square update."""
        with torch.no_grad():
            for (rows, columns), members in self._directions().items():
                updates = orthogonalise(torch.stack([part for _, part in members]))
                scale = lr * max(1.0, rows / columns) ** 0.5
                for (weight, _), update in zip(members, updates, strict=True):
                    weight.mul_(1.0 - lr * weight_decay).add_(update, alpha=-scale)

    def _directions(self) -> dict[tuple[int, int], list[tuple[Tensor, Tensor]]]:
        """Advance the momentum; return (weight, Nesterov direction) of every part, by shape."""
        groups: defaultdict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for linear, buffer in zip(self.linears, self.buffers, strict=True):
            grad = linear.latent.grad
            if grad is None:
                continue
            buffer.lerp_(grad, 1.0 - self.momentum)
            direction = grad.lerp(buffer, self.momentum)
            outs = list(linear.outs)
            for weight, part in zip(torch.split(linear.latent.data, outs), torch.split(direction, outs), strict=True):
                groups[weight.shape[0], weight.shape[1]].append((weight, part))
        return groups


class Optimizer:
    """Both optimizers behind one step."""

    def __init__(self, model: BitNet, config: TrainConfig) -> None:
        self.config = config
        self.model = model
        self.muon = Muon(model, config.muon_momentum)
        norms = [weight for name, weight in model.named_parameters() if name.endswith("norm.weight")]
        self.adam = torch.optim.AdamW(
            [
                {"params": [model.embed_tokens], "base_lr": config.embedding_lr},
                {"params": norms, "base_lr": config.norm_lr},
            ],
            betas=config.adam_betas,
            eps=1e-10,
            weight_decay=0.0,
        )

    def step(self, progress: float) -> None:
        """Update every parameter as the schedule says for this progress; clear the gradients."""
        schedule = self.config.schedule
        scale = schedule.lr_scale(progress)
        for group in self.adam.param_groups:
            group["lr"] = group["base_lr"] * scale
        self.adam.step()
        self.muon.step(self.config.muon_lr * scale, schedule.weight_decay_at(progress))
        self.model.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on: Adam's moments and Muon's momentum."""
        return {"adam": self.adam.state_dict(), "muon": self.muon.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.adam.load_state_dict(state["adam"])
        for buffer, saved in zip(self.muon.buffers, state["muon"], strict=True):
            buffer.copy_(saved)
