"""Hyperparameters of the demo model, its data mixture and its training schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# Special tokens in id order, laid out like the sixteen first special tokens of LLaMA 3.
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(4)),
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|reserved_special_token_4|>",
    "<|eot_id|>",
    *(f"<|reserved_special_token_{i}|>" for i in range(5, 11)),
)
BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
END_OF_TURN = "<|eot_id|>"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Dimensions of the network; defaults are the demo model (about 4.5 million parameters)."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_size(self) -> int:
        """Output features of k_proj, and of v_proj."""
        return self.num_key_value_heads * self.head_dim

    def token_id(self, special: str) -> int:
        """Return the id of a special token: they are the last ids of the vocabulary."""
        return self.vocab_size - len(SPECIAL_TOKENS) + SPECIAL_TOKENS.index(special)


@dataclass(frozen=True, slots=True)
class MixtureConfig:
    """Shares of the training documents, per story, in one training stage."""

    story_chat_share: float
    """Share of the stories that are given as the answer to a request."""
    renamed_share: float
    """Share of those whose main character gets another name, in request and story alike."""
    picturebooks_per_story: float
    talks_per_story: float
    """Small-talk conversations per story."""


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Two-stage schedule over progress in [0, 1] (b1.58 training tips, BitNet project 2024)."""

    warmup_end: float = 0.005
    stage_two_start: float = 0.6
    stage_one_lr: tuple[float, float] = (1.0, 0.6)
    stage_two_lr: tuple[float, float] = (0.45, 0.01)
    weight_decay: float = 0.1
    row_stages: tuple[tuple[float, int], ...] = ((0.0, 384), (0.88, 1024))
    """(progress at which it begins, tokens in a packed row)."""
    batch_stages: tuple[tuple[float, int], ...] = ((0.0, 1), (0.15, 2), (0.55, 3))
    """(progress at which it begins, microbatches in a step)."""

    def lr_scale(self, progress: float) -> float:
        """Return the factor on every learning rate: linear within a stage, a step between."""
        if progress < self.warmup_end:
            return max(progress / self.warmup_end, 0.02)
        split = self.stage_two_start
        if progress < split:
            first, last = self.stage_one_lr
            return first + (last - first) * progress / split
        first, last = self.stage_two_lr
        return first + (last - first) * min((progress - split) / (1.0 - split), 1.0)

    def weight_decay_at(self, progress: float) -> float:
        """Return the decoupled weight decay: half a cosine in stage one, zero in stage two."""
        if progress >= self.stage_two_start:
            return 0.0
        return self.weight_decay * 0.5 * (1.0 + math.cos(math.pi * progress / self.stage_two_start))

    def row_tokens(self, progress: float) -> int:
        """Return the length in tokens of the packed rows at this progress."""
        return [tokens for start, tokens in self.row_stages if progress >= start][-1]

    def microbatches(self, progress: float) -> int:
        """Return how many microbatches make a step: few early, when steps matter more."""
        return [count for start, count in self.batch_stages if progress >= start][-1]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything else the trainer needs."""

    seed: int = 20240501
    microbatch_tokens: int = 2048
    muon_lr: float = 0.02
    muon_momentum: float = 0.95
    embedding_lr: float = 0.005
    norm_lr: float = 0.005
    adam_betas: tuple[float, float] = (0.9, 0.97)
    checkpoint_seconds: float = 180.0
    export_seconds: float = 1200.0
    first_export_seconds: float = 240.0
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stage_one: MixtureConfig = field(default_factory=lambda: MixtureConfig(0.25, 0.4, 0.02, 0.3))
    stage_two: MixtureConfig = field(default_factory=lambda: MixtureConfig(0.4, 0.4, 0.01, 1.2))

    def mixture(self, progress: float) -> MixtureConfig:
        """Return the data mixture of the stage that this progress falls in."""
        return self.stage_one if progress < self.schedule.stage_two_start else self.stage_two
