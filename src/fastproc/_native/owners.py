"""Cells in C memory that own what is stored in them, and give it back when they go.

Not by ``ffi.gc``, and not by __del__(): in a circle of garbage the collector calls the finalisers of all its
objects, in no order to rely on, before it takes any of them apart. An object of ``ffi.gc`` has such a
finaliser, so whatever runs later, a __del__() of the user that asks a Process how it is, for one, would find
freed memory. What a custom allocator gives for a struct is no object of the collector's: it goes with the
last reference, when the circle is taken apart and nothing of ours runs in it any more.

A cell is made empty and filled in one step, so Ctrl-C finds it either empty or the owner.
"""

from __future__ import annotations

from typing import Any, Final

from .library import ffi, lib

new_proc_owner = ffi.new_allocator(lib.owner_new, lib.proc_owner_free, should_clear_after_alloc=False)
"""Called with PROC_OWNER."""
PROC_OWNER: Final[Any] = ffi.typeof("proc_owner *")
new_reader_owner = ffi.new_allocator(lib.owner_new, lib.reader_owner_free, should_clear_after_alloc=False)
"""Called with "reader_owner *"."""
new_mailbox_owner = ffi.new_allocator(lib.owner_new, lib.mailbox_owner_free, should_clear_after_alloc=False)
"""Called with "mailbox_owner *"."""
new_env_owner = ffi.new_allocator(lib.owner_new, lib.env_owner_free, should_clear_after_alloc=False)
"""Called with "env_owner *"."""
new_solo_owner = ffi.new_allocator(lib.owner_new, lib.solo_owner_free, should_clear_after_alloc=False)
"""Called with SOLO_OWNER."""
SOLO_OWNER: Final[Any] = ffi.typeof("solo_owner *")
