"""The recipe for the extension `fastproc._native._cffi`, read by setup.py through cffi's `cffi_modules`.

The public header is the only description of the interface: what stands there between the two markers is
declared to cffi as it is. The C library itself is built by csrc/Makefile (setup.py sees to that) and linked
in whole and hidden, so that the extension needs no libfastproc at run time and cannot meet a foreign one.

Paths are relative to the directory of setup.py, where setuptools runs, as a source distribution demands.
"""

import re
from pathlib import Path

from cffi import FFI

HEADER = Path("csrc/include/fastproc.h")
ARCHIVE = Path("csrc/build/plain/libfastproc.a")


def declarations(header: str) -> str:
    """What cffi shall know of the header: all between the markers, without the mark of exported functions."""
    between = header.partition("/* cdef: begin */")[2].partition("/* cdef: end */")[0]
    return re.sub(r"\bFP_API\s+", "", between)


# Cells that own what is stored in them, see owners.py.
OWNERS = """
typedef struct { fp_proc *proc; } proc_owner;
typedef struct { fp_mailbox *mailbox; } mailbox_owner;
typedef struct { fp_env *env; } env_owner;
"""
OWNER_CALLS = """
static void *owner_new(size_t size);
static void proc_owner_free(void *cell);
static void mailbox_owner_free(void *cell);
static void env_owner_free(void *cell);
"""
OWNER_CODE = """
static void *owner_new(size_t size) { return calloc(1, size); }
static void proc_owner_free(void *cell) { fp_proc_free(((proc_owner *)cell)->proc); free(cell); }
static void mailbox_owner_free(void *cell) { fp_mailbox_free(((mailbox_owner *)cell)->mailbox); free(cell); }
static void env_owner_free(void *cell) { fp_env_free(((env_owner *)cell)->env); free(cell); }
"""

ffibuilder = FFI()
ffibuilder.cdef(declarations(HEADER.read_text(encoding="utf-8")) + OWNERS + OWNER_CALLS)
ffibuilder.set_source(
    "fastproc._native._cffi",
    f'#include <stdlib.h>\n#include "fastproc.h"\n{OWNERS}{OWNER_CODE}',
    include_dirs=[str(HEADER.parent)],
    extra_objects=[str(ARCHIVE)],
    depends=[str(HEADER), str(ARCHIVE)],
    extra_compile_args=["-std=gnu17", "-O2", "-fvisibility=hidden"],
    # --exclude-libs: what the archive exports is meant for the shared library, not for the extension.
    extra_link_args=["-pthread", "-Wl,-z,relro,-z,now", "-Wl,--exclude-libs,ALL"],
)
