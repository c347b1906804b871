"""The scripts of benchmarks/ are run from the root of the sources; so are their tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
