"""The compiled extension, imported only here: `lib` has the functions of fastproc.h, `ffi` makes C data."""

from __future__ import annotations

from . import _cffi

ffi = _cffi.ffi
lib = _cffi.lib

# The handlers of the interpreter set a flag, at which its main thread looks between calls.
lib.fp_main_thread_naps(1)
