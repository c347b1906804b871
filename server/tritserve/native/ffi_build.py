"""Write the C source of ``tritserve.native._trit``. Run by CMake: ``python -P ffi_build.py PREPROCESSED_H TRIT_H OUT_C``.

``-P`` keeps this folder, and with it our ``types.py``, off the module path.

The declarations are trit.h after the preprocessor (comments and includes gone), so there is no second copy of them. Constants
that are plain ``#define NAME NUMBER`` lines do not survive the preprocessor; they are taken from the header itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

_CONSTANT = re.compile(r"^#define (TRIT_\w+) -?\d+\b", re.MULTILINE)


def build(preprocessed: Path, header: Path, out: Path) -> None:
    """Write the extension module's source to ``out``."""
    constants = "\n".join(f"#define {name} ..." for name in _CONSTANT.findall(header.read_text(encoding="utf-8")))
    ffi = FFI()
    ffi.cdef(preprocessed.read_text(encoding="utf-8") + "\n" + constants)
    ffi.set_source("tritserve.native._trit", "#include <trit/trit.h>")
    ffi.emit_c_code(str(out))


if __name__ == "__main__":
    build(*(Path(argument) for argument in sys.argv[1:]))
