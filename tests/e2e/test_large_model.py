"""2B4T's real shape from checkpoint to answer, with random weights. Minutes and gigabytes: outside the default run."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from live_server import LiveServer, environment

from tritserve.model.random_checkpoint import write_random_checkpoint
from tritserve.model.shapes import SHAPES

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = SHAPES["bitnet-b1.58-2b-4t"]
EMBEDDING_BYTES = SHAPE.architecture.vocab * SHAPE.architecture.hidden * 2
NEEDED_BYTES = 8 * 2**30


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_2b4t_shape_is_converted_within_its_memory_bound_loaded_and_generates_alike_on_one_thread_and_two(
    tmp_path: Path,
) -> None:
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < NEEDED_BYTES:
        pytest.skip(f"needs {NEEDED_BYTES:,} bytes of free memory")
    checkpoint = tmp_path / "large"
    write_random_checkpoint(checkpoint, SHAPE)
    cache = tmp_path / "cache"
    code = (  # not ru_maxrss: a child begins with its parent's
        "from pathlib import Path; from tritserve.cli.main import main\n"
        "try: main()\n"
        "finally: print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    converted = subprocess.run(
        [sys.executable, "-c", code, "pull", str(checkpoint)],
        env=environment(cache),
        capture_output=True,
        text=True,
        check=True,
    )
    peak_bytes = int(converted.stdout.splitlines()[-1]) * 1024
    assert peak_bytes <= 3 * EMBEDDING_BYTES + 256 * 2**20, f"{peak_bytes:,}"

    answers = []
    for threads in ("1", "2"):
        with LiveServer(cache, str(checkpoint), "--threads", threads, log_path=tmp_path / f"{threads}.log") as server:
            with server.sdk() as client:
                answer = client.completions.create(
                    model="large", prompt="Once", max_tokens=4, seed=1, logprobs=2, extra_body={"ignore_eos": True}
                )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 4
            answers.append((answer.choices[0].text, answer.choices[0].logprobs))
            server.terminate()
            assert server.wait() == 0
    assert answers[0] == answers[1]
