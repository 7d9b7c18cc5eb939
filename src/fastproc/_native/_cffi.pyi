"""The compiled extension, as seen by a type checker: what cffi makes of csrc/include/fastproc.h."""

from typing import Any

ffi: Any
lib: Any
