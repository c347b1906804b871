"""Write demo_slice.jsonl: the first stories of tinystories.valid, with their licence notice.

    python tests/golden/make_demo_slice.py CORPUS_DIR > tests/golden/demo_slice.jsonl

The first line holds only the notice; every other line holds one story in ``text``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tritserve.demo.corpus import read_records

NUM_STORIES = 12
NOTICE = (
    "From TinyStories (Ronen Eldan and Yuanzhi Li, arXiv:2305.07759; data set roneneldan/TinyStories), "
    "licence CDLA-Sharing-1.0 (https://cdla.dev/sharing-1-0/); changed: punctuation made ASCII, spaces collapsed. "
    "These lines stay under that licence. They are validation stories: the demo model was not trained on them."
)


def main() -> None:
    """Print the slice to standard output."""
    records = read_records(Path(sys.argv[1]) / "tinystories.valid.jsonl.xz")[:NUM_STORIES]
    for line in ({"notice": NOTICE}, *({"text": record["text"]} for record in records)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
