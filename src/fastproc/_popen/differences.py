"""Where the drop-in departs from the standard library on purpose, and the switches that take it back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Differences:
    """One attribute a difference; False is how fastproc does it, True is the old way.

    They hold for the whole program, and may be changed at any time and in any thread: each call looks at
    them. `fastproc.subprocess.differences` is the one object of this class that counts.

    Attributes:
        invented_status: when other code has taken the exit status and the kernel cannot tell it any more,
            returncode is 0, and nobody is warned.
        spared_descendants: a time-out of run(), call(), check_call() or check_output() kills the child alone.
        endless_pipes: communicate() after kill(), and run() after its time-out, wait until everybody has
            closed the pipes, however long that takes.
        bytes_in_timeouts: TimeoutExpired holds bytes, also in text mode.
    """

    invented_status: bool = False
    spared_descendants: bool = False
    endless_pipes: bool = False
    bytes_in_timeouts: bool = False


differences = Differences()
