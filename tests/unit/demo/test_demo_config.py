"""The schedule: two stages, whatever the budget; and the special ids."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tritserve.demo.config import (
    BEGIN_OF_TEXT,
    END_OF_TURN,
    SPECIAL_TOKENS,
    ModelConfig,
    ScheduleConfig,
    TrainConfig,
)

SCHEDULE = ScheduleConfig()
STEPS = [i / 1000 for i in range(1001)]


def test_learning_rate_warms_up_then_never_rises() -> None:
    after = [SCHEDULE.lr_scale(p) for p in STEPS if p >= SCHEDULE.warmup_end]
    assert SCHEDULE.lr_scale(0.0) < 0.1
    assert all(a >= b for a, b in pairwise(after))
    assert after[-1] == pytest.approx(0.01)


def test_learning_rate_drops_abruptly_between_the_stages() -> None:
    split = SCHEDULE.stage_two_start
    assert SCHEDULE.lr_scale(split - 1e-9) == pytest.approx(0.6)
    assert SCHEDULE.lr_scale(split) == pytest.approx(0.45)


def test_weight_decay_follows_a_cosine_and_is_zero_in_stage_two() -> None:
    assert SCHEDULE.weight_decay_at(0.0) == pytest.approx(0.1)
    assert SCHEDULE.weight_decay_at(0.3) == pytest.approx(0.05)
    assert all(SCHEDULE.weight_decay_at(p) == 0.0 for p in STEPS if p >= 0.6)


def test_progress_beyond_the_budget_keeps_the_last_learning_rate() -> None:
    assert SCHEDULE.lr_scale(1.5) == SCHEDULE.lr_scale(1.0)


def test_last_stage_reaches_every_position() -> None:
    assert SCHEDULE.row_tokens(0.0) == 384
    assert SCHEDULE.row_tokens(0.95) == ModelConfig().max_position_embeddings


def test_batch_grows_with_progress() -> None:
    assert [SCHEDULE.microbatches(p) for p in (0.0, 0.2, 0.9)] == [1, 2, 3]


def test_mixture_changes_with_the_stage() -> None:
    config = TrainConfig()
    assert config.mixture(0.1) is config.stage_one
    assert config.mixture(0.7) is config.stage_two
    assert config.stage_two.story_chat_share > config.stage_one.story_chat_share


def test_special_tokens_are_the_last_ids() -> None:
    config = ModelConfig()
    assert config.token_id(BEGIN_OF_TEXT) == 4080
    assert config.token_id(END_OF_TURN) == 4089
    assert len(set(SPECIAL_TOKENS)) == 16
