from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, Self, TypeAlias

_Ended: TypeAlias = tuple[int | None, int, bytes | None, bytes | None]

def set_up(
    run: int, start: int, talk: int, lend: int, free: int, pid: int, repack: Callable[[], object], /
) -> None: ...
def keep_environment(seen: dict[bytes, bytes], owner: object, env: int, search_path: int, /) -> None: ...
def run(pointers: bytes, /) -> _Ended | Literal[False]: ...
def run_plain(
    pointers: bytes, args: Sequence[Any], keywords: dict[str, Any], both: bool, /
) -> _Ended | Literal[False] | None: ...
def start_plain(
    pointers: bytes, args: Sequence[Any], in_fd: int, out_fd: int, err_fd: int, /
) -> int | None: ...
def talk(solo: int, talk: int, result: int, /) -> tuple[int, bytes, bytes, BaseException | None]: ...

class Entry:
    """One process, see ledger.c."""

    task_id: Any
    error: Any
    _what: Any
    _roster: Any
    _token: int
    _status: Any
    _callbacks: Any
    _starter: int
    _flags: int
    def __new__(cls, roster: Any, task_id: Any, what: Any, /) -> Self: ...
    @property
    def _owner(self) -> Any: ...
    @property
    def _source(self) -> Any: ...
    @property
    def _born(self) -> bool: ...
    @property
    def _pid(self) -> int: ...

class Ledger:
    """The processes of one manager, see ledger.c."""

    lock: Any
    active: Any
    by_token: Any
    finished: Any
    dispatcher: Any
    _cancels: Any
    specs: Any
    _starts_at: int
    starts: int
    closed: bool
    special: bool
    _forgotten: bool

def set_up_ledger(
    functions: tuple[int, ...],
    sizes: tuple[int, int],
    make_owner: Callable[[Any], object],
    owner_kind: object,
    wrap_cell: Callable[[Any], object],
    address_of: Callable[[Any], int],
    pointer_to: Callable[[int], object],
    repack: Callable[[], object],
    status_type: type,
    /,
) -> None: ...
def keep_for_starts(seen: dict[bytes, bytes], owner: object, env: int, none: int, /) -> None: ...
def set_engine(
    tokens: Iterator[int],
    levels: dict[int, bool],
    level: int,
    fail: Callable[[Any, int], NoReturn],
    /,
) -> None: ...
def plain_entry(kind: type, roster: Ledger, task_id: Any, args: Any, /) -> tuple[Any, bytes] | None: ...
def plain_block(args: Any, /) -> bytes | None: ...
def queue_entries(starts: int, entries: Sequence[Entry], blocks: list[bytes], max_running: int, /) -> int: ...
def await_starts(entries: Sequence[Entry], /) -> int: ...
def enter_ends(
    ledger: Ledger, news: int, n: int, flying: dict[int, Any] | None, ready: Any, /
) -> list[tuple[int, ...]]: ...
def start_entry(entry: Entry, /) -> bool: ...
def hear_entry(entry: Entry, timeout: float | None, /) -> bool: ...
