"""The compiled extension, imported only here: `lib` has the functions of fastproc.h, `ffi` makes C data."""

from __future__ import annotations

from . import _cffi

ffi = _cffi.ffi
lib = _cffi.lib
