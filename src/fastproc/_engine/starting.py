"""How the processes of a manager are started: one in the caller's thread, many by the crew.

Each has its name and its token before it exists, so that Ctrl-C at any point leaves it either not there or
stopped; what goes wrong takes both away again. See roster.py for who admits, and feed.py and loopfeed.py for
starts that wait for their turn.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import INFO
from typing import Any, NoReturn, TypeVar

from .._native import ledger
from .._native.crew import ANY_NUMBER, Starter, StartFailed, refuse, wait_started
from .._native.failures import closed_descriptor, spawn_error_of
from .._native.library import lib
from .._native.records import STATE_DONE
from .._native.specs import Keep, Specs, set_deadline
from ..cancel import CancelToken
from ..errors import ManagerClosed, SpawnError, spawn_error
from .child import UNCOUNTED, Child
from .observers import levels
from .roster import Roster, tokens

# So often are the news read when nobody asks for them: mailboxes shall not grow.
_STARTS_PER_DRAIN = 32
# So many starts are handed over in one call: the crew begins with them while we prepare the next.
_CHUNK = 256

_start_plain = lib.start_plain

C = TypeVar("C")


def start(
    roster: Roster, child: Child, cancel: CancelToken | None, on_exit: Callable[[Any], object] | None
) -> None:
    """Start one process in this thread.

    Raises:
        SpawnError, DuplicateTask, TooManyProcesses, ManagerClosed, ForkedHandle: nothing is left of it.
    """
    command = child.command
    plain = command.plain and cancel is None and on_exit is None and not roster.die_with_parent
    closed = None if plain else closed_descriptor(command)
    roster.engage()
    specs = roster.specs
    if specs is None:
        raise ManagerClosed
    # All in one `try`: Ctrl-C may come at any point, and the child is then either not there or stopped.
    try:
        roster.admit_one(child)
        began = time.monotonic() if roster.dispatcher.telling else 0.0
        if plain:
            block = command.args_block
            owner = child._owner
            result = _start_plain(
                specs.starter.starts, owner, block, len(block), specs.environment(), child._token
            )
            if result < 0:
                refuse(result, owner)
        else:
            if closed is not None:
                raise closed
            _start_special(roster, child, specs, cancel, on_exit)
        if child._flags or roster.dispatcher.telling:
            roster.announce(child, began)
        if cancel is not None:
            roster.bind(child, cancel)
        child._starter = 0
    except StartFailed as failed:
        error = spawn_error_of(command, failed.failure)
        roster.refuse(child, error)
        raise error from None
    except BaseException as error:
        roster.abort(child, error)
        raise
    roster.starts += 1
    if roster.starts % _STARTS_PER_DRAIN == 0:
        roster.drain()


def _fail(child: Child, result: int) -> NoReturn:
    """The start of a plain one has failed."""
    try:
        refuse(result, child._owner)
    except StartFailed as failed:
        error = spawn_error_of(child.command, failed.failure)
    child._roster.refuse(child, error)
    raise error


ledger.set_engine(tokens, levels, INFO, _fail)


def _start_special(
    roster: Roster,
    child: Child,
    specs: Specs,
    cancel: CancelToken | None,
    on_exit: Callable[[Any], object] | None,
) -> None:
    """Start one of which more is said than its arguments."""
    command = child.command
    keep: Keep = []
    spec = specs.make(command, child._token, keep)
    if cancel is not None:
        apply_cancel(spec, cancel)
    if on_exit is not None:
        roster.add_callback(child, STATE_DONE, on_exit)
    if roster.die_with_parent if command.die_with_parent is None else command.die_with_parent:
        # PR_SET_PDEATHSIG fires when the thread that made the child ends, see prctl(2): a supervisor's
        # thread lives as long as the program, the caller's may not.
        child._flags |= UNCOUNTED
        _start_elsewhere(specs.starter, spec, child)
        roster.count_start(child)
    else:
        specs.starter.start(child._owner, spec)


def start_many(roster: Roster, children: Sequence[tuple[Child, bytes | None]]) -> None:
    """Start many in the supervisors' threads. Those that could not be started have their `error` set.

    With each child its arguments as a block, if nothing else is said: see plain_block().
    """
    closed = {child: closed_descriptor(child.command) for child, block in children if block is None}
    crew = roster.engage()
    specs = roster.specs
    if specs is None:
        raise ManagerClosed
    if not children:
        return
    began = time.monotonic()
    counted = False
    try:
        roster.admit_all([child for child, _block in children])
        for chunk in _chunks(children):
            queue_all(roster, specs, chunk, closed, ANY_NUMBER)
        queued = [child for child, _block in children if child.error is None]
        failures = wait_started(queued)
        # Each took its share of the time: the crew starts them one after the other.
        share = (time.monotonic() - began) * crew.size / len(children)
        for _counted in roster.tally.starts(share, len(queued) - failures):
            counted = True
        for child in queued:
            if failures and (failure := child._handle.failure()) is not None:
                roster.refuse(child, spawn_error_of(child.command, failure))
            elif child._flags or roster.dispatcher.telling:
                roster.announce(child, began)
    except BaseException as error:
        if not counted:
            roster.count_later(child for child, _block in children)
        for child, _block in children:
            roster.abort(child, error)
        raise
    roster.drain()


def queue_all(
    roster: Roster,
    specs: Specs,
    children: Sequence[tuple[Child, bytes | None]],
    closed: Mapping[Child, SpawnError | None],
    max_running: int,
) -> None:
    """Hand many starts over. Those that are refused at once have their `error` set."""
    plain, blocks, special = [], [], []
    for child, block in children:
        if block is None or roster.die_with_parent:
            special.append(child)
        else:
            plain.append(child)
            blocks.append(block)
    if plain:
        try:
            specs.starter.start_all_plain(plain, blocks, max_running)
        except OSError:
            # One that is too long spoils the call; which one, and why, is found out one by one.
            special = [child for child, _block in children]
    if special:
        _queue_special(roster, specs, special, closed, max_running)


def _queue_special(
    roster: Roster,
    specs: Specs,
    children: Sequence[Child],
    closed: Mapping[Child, SpawnError | None],
    max_running: int,
) -> None:
    keep: Keep = []
    queued = []
    made = []
    for child in children:
        try:
            mistake = closed.get(child)
            if mistake is not None:
                raise mistake
            made.append(specs.make(child.command, child._token, keep))
            queued.append(child)
        except SpawnError as error:
            roster.refuse(child, error)
    hand_over(roster, specs.starter, made, queued, max_running)


def hand_over(
    roster: Roster, starter: Starter, specs: Sequence[Any], children: Sequence[Child], max_running: int
) -> None:
    """Queue starts by their specs. Those that are refused at once have their `error` set."""
    try:
        if children:
            starter.start_many([child._owner for child in children], specs, max_running)
    except OSError:
        for spec, child in zip(specs, children, strict=True):
            _queue_one(roster, starter, spec, child, max_running)


def _queue_one(roster: Roster, starter: Starter, spec: Any, child: Child, max_running: int) -> None:
    try:
        starter.start_many([child._owner], [spec], max_running)
    except OSError:
        try:
            starter.start(child._owner, spec)
        except StartFailed as failed:
            roster.refuse(child, spawn_error_of(child.command, failed.failure))


def apply_cancel(spec: Any, cancel: CancelToken) -> None:
    if cancel.cancelled:
        raise spawn_error(errno.ECANCELED, "request", words="its CancelToken has been cancelled")
    deadline = cancel.deadline
    if deadline is not None:
        set_deadline(spec, deadline)


def _chunks(children: Sequence[C]) -> Iterator[Sequence[C]]:
    for at in range(0, len(children), _CHUNK):
        yield children[at : at + _CHUNK]


def _start_elsewhere(starter: Starter, spec: Any, child: Child) -> None:
    try:
        starter.start_many([child._owner], [spec])
    except OSError:
        # The spec itself is refused; asked here, the library says which part of it, and makes no child.
        starter.start(child._owner, spec)
    wait_started([child])
    failure = child._handle.failure()
    if failure is not None:
        raise StartFailed(failure)
