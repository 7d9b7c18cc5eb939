"""The recipe for the extension `fastproc._native._cffi`, read by setup.py through cffi's `cffi_modules`.

The public header is the only description of the interface: what stands there between the two markers is
declared to cffi as it is, and so is what glue.h adds for our own use. The C library itself is built by
csrc/Makefile (setup.py sees to that) and linked in whole and hidden, so that the extension needs no
libfastproc at run time and cannot meet a foreign one.

Paths are relative to the directory of setup.py, where setuptools runs, as a source distribution demands.
"""

import re
from pathlib import Path

from cffi import FFI

HEADER = Path("csrc/include/fastproc.h")
GLUE = Path("src/fastproc/_native/glue.h")
ARCHIVE = Path("csrc/build/plain/libfastproc.a")


def declarations(header: str) -> str:
    """What cffi shall know of the header: all between the markers, without the mark of exported functions."""
    between = header.partition("/* cdef: begin */")[2].partition("/* cdef: end */")[0]
    return re.sub(r"\bFP_API\s+", "", between)


ffibuilder = FFI()
ffibuilder.cdef("".join(declarations(header.read_text(encoding="utf-8")) for header in (HEADER, GLUE)))
ffibuilder.set_source(
    "fastproc._native._cffi",
    '#include "glue.h"',
    include_dirs=[str(HEADER.parent), str(GLUE.parent)],
    extra_objects=[str(ARCHIVE)],
    depends=[str(HEADER), str(GLUE), str(ARCHIVE)],
    extra_compile_args=["-std=gnu17", "-O2", "-fvisibility=hidden"],
    # --exclude-libs: what the archive exports is meant for the shared library, not for the extension.
    extra_link_args=["-pthread", "-Wl,-z,relro,-z,now", "-Wl,--exclude-libs,ALL"],
)
