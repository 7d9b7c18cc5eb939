"""Putting the drop-in in the place of the standard module's functions, and taking it away again."""

from __future__ import annotations

import subprocess as standard
import sys
import threading
from types import TracebackType
from typing import Any, Final, Self

NAMES: Final = ("Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput")

_lock = threading.Lock()
_depth = 0
_originals: dict[str, Any] = {}


class Installation:
    """One call of install(); undone at the end of its ``with`` block, or by undo()."""

    __slots__ = ("_active",)

    def __init__(self) -> None:
        self._active = True

    def undo(self) -> None:
        """Take it back. The last of several puts the standard functions back; more than once does no harm.

        A name that somebody else has replaced meanwhile is left to him.
        """
        global _depth
        with _lock:
            if not self._active:
                return
            self._active = False
            _depth -= 1
            if _depth == 0:
                ours = vars(sys.modules["fastproc.subprocess"])
                for name, original in _originals.items():
                    if getattr(standard, name) is ours[name]:
                        setattr(standard, name, original)
                _originals.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


def install() -> Installation:
    """Let everybody who says ``subprocess.run``, ``subprocess.Popen`` and so on start by fastproc.

        fastproc.install()                  # for the rest of the program
        with fastproc.install():            # or for a while
            library_that_uses_subprocess()

    The functions are replaced in the standard module itself, so it holds for all modules that import it, or
    have done so, and for what is taken from it later (``from subprocess import run``). Names that a module
    has taken from it before stay what they were; its functions start by the new Popen all the same. asyncio
    and ``os.popen`` start their children through it too; multiprocessing does not.

    Safe from any thread. Processes that run are not affected.
    """
    global _depth
    from . import subprocess as ours

    with _lock:
        if _depth == 0:
            for name in NAMES:
                _originals[name] = getattr(standard, name)
                setattr(standard, name, getattr(ours, name))
        _depth += 1
    return Installation()
