"""The worker's entry with a fake model: everything is real but the arithmetic. The model file is its options as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fake_runner import RECORD_BYTES, FakeRunner

from tritserve.engine.worker import main
from tritserve.errors import ModelFileError

if TYPE_CHECKING:
    from tritserve.engine.batch import Batch
    from tritserve.engine.model_runner import Choice
    from tritserve.protocol import Start


class SlowRunner(FakeRunner):
    """A FakeRunner whose steps take time."""

    step_seconds = 0.0

    def step(self, batch: Batch) -> list[Choice]:
        time.sleep(self.step_seconds)
        return super().step(batch)


def open_fake(start: Start, kv_fd: int) -> FakeRunner:
    options = json.loads(Path(start.model_path).read_text())
    if "fail" in options:
        raise ModelFileError(options["fail"])
    if options.get("exit"):
        sys.exit(int(options["exit"]))
    runner = SlowRunner(min(options.get("num_blocks", 512), start.kv_bytes // RECORD_BYTES), 4096, kv_fd)
    runner.step_seconds = options.get("step_seconds", 0.0)
    return runner


if __name__ == "__main__":
    sys.exit(main(open_runner=open_fake))
