"""From a ``trit_status`` to an exception, in one function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritserve.errors import NativeError
from tritserve.native._trit import ffi, lib

if TYPE_CHECKING:
    from tritserve.native._trit import CData, Error


def new_error() -> Error:
    """Return a place for libtrit to write what was wrong; good for many calls."""
    return ffi.new("trit_error *")


def check(status: int, error: Error) -> None:
    """Raise NativeError unless ``status`` is TRIT_OK."""
    if status != lib.TRIT_OK:
        raise NativeError(text_of(lib.trit_status_name(status)), text_of(error.text))


def text_of(cdata: CData) -> str:
    """Return a C string as str."""
    return ffi.string(cdata).decode("utf-8", "replace")
