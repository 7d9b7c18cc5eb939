"""Command: what to start and when it must end, checked in full before any process exists."""

from __future__ import annotations

import dataclasses
import grp
import math
import os
import pwd
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, field
from errno import EINVAL
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypedDict,
    cast,
)

from . import _checks
from .errors import SpawnError
from .limits import Limits

# Those of the standard library's subprocess, which would take longer to import than all else here.
PIPE: Final = -1
STDOUT: Final = -2
DEVNULL: Final = -3

DEFAULT_MAX_OUTPUT: Final = 256 * 1024
"""Bytes kept of each captured stream, a quarter from its beginning and the rest from its end."""

NO_GUARD: Final = "containment 'guard' is not available in this version; there are 'cgroup' and 'session'"

Arg: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Containment: TypeAlias = Literal["auto", "session", "cgroup", "guard"]
StartNew: TypeAlias = Literal["session", "group"] | None
Leftovers: TypeAlias = Literal["stop", "keep"]
OnMaxOutput: TypeAlias = Literal["truncate", "stop", "wait"]


class HasFileno(Protocol):
    """An open file, socket or anything else with a descriptor."""

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LogFile:
    """A file that the child itself opens for its output, so no byte passes through us.

    A relative path is relative to the directory of this program, not to the child's `cwd`.
    """

    path: Arg
    append: bool = True

    def __post_init__(self) -> None:
        _path("path", self.path)


Input: TypeAlias = int | Arg | HasFileno | None
Output: TypeAlias = int | Arg | LogFile | HasFileno | None


class CommandOptions(TypedDict, total=False):
    """The keyword arguments of Command, for those who pass them on."""

    cwd: Arg | None
    env: Mapping[Any, Any] | None
    stdin: Input
    stdout: Output
    stderr: Output
    input: bytes | None
    timeout: float | None
    idle_timeout: float | None
    grace: float
    stop_signal: int
    limits: Limits | None
    nice: int | None
    umask: int | None
    user: int | str | None
    group: int | str | None
    extra_groups: Sequence[int | str] | None
    cpu_affinity: Collection[int] | None
    no_new_privs: bool
    pass_fds: Collection[int]
    start_new: StartNew
    containment: Containment
    leftovers: Leftovers
    die_with_parent: bool | None
    max_output: int | None
    on_max_output: OnMaxOutput
    tags: Mapping[str, str]


# No slots: defaults are class attributes, and an instance holds only what was said. With 29 slots to
# fill through object.__setattr__() a Command took 4 us to make, like this it takes 1 us.
@dataclass(frozen=True, kw_only=True, repr=False)
class Command:
    """A program, its surroundings, and the conditions under which it is stopped.

    Wrong values raise TypeError or ValueError here. What only the system can tell (a missing program,
    an unknown user) is a SpawnError when it is started. Immutable, so one Command may start many.

    Args:
        args: the program and its arguments, as a list; there is no hidden shell.
        cwd: the directory to start in; None for ours.
        env: the whole environment; None for a copy of ours.
        stdin: DEVNULL, None for ours, a path to read from, a file or a descriptor.
        stdout, stderr: None for ours, DEVNULL, PIPE to capture it, a path or LogFile to append to,
            a file or a descriptor. ``stderr=STDOUT`` sends it where standard output goes.
        input: bytes to feed to its standard input.
        timeout: seconds from its start until it is stopped.
        idle_timeout: seconds without a byte on a captured stream until it is stopped. As
            ``on_max_output="stop"``, it is refused at the start (ValueError) if no stream is captured.
        grace: seconds from the stop signal to SIGKILL.
        stop_signal: what it is asked to end with.
        limits: what it may use.
        nice: its priority, from -20 to 19, not relative to ours.
        umask: its file mode mask.
        user, group, extra_groups: whom it runs as. A user brings its primary and further groups unless these
            are named. A number that the user database does not know brings none: then the group stays ours
            unless `group` is given, and there are no further groups.
        cpu_affinity: numbers of the CPUs it may run on.
        no_new_privs: it and its descendants gain no privilege by executing anything, see prctl(2).
        pass_fds: descriptors, 3 and above, that it gets under the same numbers.
        start_new: it leads a new session, only a new group (jobs on a terminal), or neither.
        containment: what keeps its descendants together; "auto" is the best that can be had.
        leftovers: whether descendants that outlive it are stopped too, or kept: then the task stays active
            until they have ended.
        die_with_parent: SIGKILL it when this process dies; None leaves it to the manager.
        max_output: bytes to keep of each captured stream, 1 or more; None for 256 KiB.
        on_max_output: beyond `max_output` in all, drop what is in the middle, or stop the process; or "wait":
            each captured stream loses nothing before its first Process.lines(), which begins with the first
            byte. A process that prints more meanwhile waits, as at a pipe that nobody reads, so read both.
        tags: words of yours; fastproc only carries them.

    `args_block` and `env_block` hold arguments and environment as bytes, each string ended by a NUL.
    """

    args: Sequence[Arg] = field(kw_only=False)
    cwd: Arg | None = None
    env: Mapping[Any, Any] | None = field(default=None, hash=False)
    stdin: Input = DEVNULL
    stdout: Output = None
    stderr: Output = None
    input: bytes | None = None
    timeout: float | None = None
    idle_timeout: float | None = None
    grace: float = 5.0
    stop_signal: int = signal.SIGTERM
    limits: Limits | None = None
    nice: int | None = None
    umask: int | None = None
    user: int | str | None = None
    group: int | str | None = None
    extra_groups: Sequence[int | str] | None = None
    cpu_affinity: Collection[int] | None = None
    no_new_privs: bool = False
    pass_fds: Collection[int] = ()
    start_new: StartNew = "session"
    containment: Containment = "auto"
    leftovers: Leftovers = "stop"
    die_with_parent: bool | None = None
    max_output: int | None = None
    on_max_output: OnMaxOutput = "truncate"
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    # Whether nothing was said but the arguments, and the options that were said; no fields. Looking into
    # __dict__ for the latter would make it a dictionary of its own, of 80 bytes for each command.
    plain: ClassVar[bool] = True
    _said: ClassVar[tuple[str, ...]] = ()

    args_block: bytes = field(init=False, compare=False)
    env_block: bytes | None = field(init=False, compare=False, default=None)

    # Type checkers see the arguments that the fields make; dataclass() leaves this one in place.
    if not TYPE_CHECKING:

        def __init__(self, args, **options):
            _fill(self, args, options)

        def __getattr__(self, name):
            # Hardly anybody has tags, and an empty dictionary for each command takes 64 bytes.
            if name == "tags":
                return {}
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def coerce(cls, command: Command | Sequence[Arg], options: Mapping[str, object]) -> Command:
        """Make a Command of a sequence and options, or of a Command with some options changed."""
        if not isinstance(command, Command):
            return _make(cls, command, options)
        return command.replace(**options) if options else command

    def replace(self, **options: object) -> Command:
        """The same Command with other options. Unlike dataclasses.replace() it keeps what given() says."""
        command = type(self).__new__(type(self))
        if "args" in options:
            _set_args(command, options.pop("args"))
        else:
            _set(command, "args", self.args)
            _set(command, "args_block", self.args_block)
        # The pipe that an input has brought goes; the other input, if there is one, brings its own.
        said = [name for name in self._said if name != "stdin" or self.input is None]
        # What was checked when it was said is not checked again.
        for name in said:
            _set(command, name, getattr(self, name))
        if "tags" in said:
            _set(command, "tags", dict(self.tags))
        if self.env_block is not None:
            _set(command, "env_block", self.env_block)
        _say(command, said, options)
        return command

    def given(self, name: str) -> bool:
        """Whether an option was said, be it with its default value: a manager's own default yields to it."""
        if name not in _CHECKS:
            raise AttributeError(f"Command has no option {name!r}")
        return bool(self.tags) if name == "tags" else name in self._said

    @property
    def captures(self) -> bool:
        """Whether any output comes through a pipe to us."""
        return PIPE in (self.stdout, self.stderr)

    @property
    def head_bytes(self) -> int:
        """How much of the beginning of each captured stream is kept."""
        kept = DEFAULT_MAX_OUTPUT if self.max_output is None else self.max_output
        # A tail of a byte at least: the library gives followers of a stream that has none a large one.
        return min(max(1, kept // 4), kept - 1)

    @property
    def tail_bytes(self) -> int:
        """How much of the end of each captured stream is kept."""
        kept = DEFAULT_MAX_OUTPUT if self.max_output is None else self.max_output
        return kept - self.head_bytes

    def check_output(self) -> None:
        """Raise ValueError for an option about captured output where nothing is captured.

        Asked at the start and not before: replace() may still say which stream it is.
        """
        if self.captures:
            return
        if self.idle_timeout is not None:
            raise ValueError("idle_timeout counts from the last byte: it needs stdout=PIPE or stderr=PIPE")
        if self.on_max_output == "stop":
            raise ValueError(
                "on_max_output='stop' counts what is captured: it needs stdout=PIPE or stderr=PIPE"
            )

    def __repr__(self) -> str:
        """Shows arguments and options, but no value of the environment and no input: they may be secret."""
        unlike = {name: value for name in _CHECKS if (value := getattr(self, name)) != _DEFAULTS[name]}
        words = [repr(list(self.args)), *(f"{name}={_shown(name, value)}" for name, value in unlike.items())]
        return f"Command({', '.join(words)})"


class Ids(NamedTuple):
    """Whom a child runs as: numbers, and None for what stays as it is."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...] | None


def resolve_ids(command: Command, *, complete: bool = True) -> Ids | None:
    """Look up the user, group and extra groups of a command; None if it names none.

    With `complete`, a user other than ours brings the primary and the further groups that the user
    database has for it, unless the command names them: else a program of root's would run as `nobody`
    but keep root's groups. A numeric user that the database does not know gets no further groups, and keeps
    our primary group unless the command names one.

    Raises:
        SpawnError: there is no such user or group (stage ``ids``, filename the name).
    """
    if command.user is None and command.group is None and command.extra_groups is None:
        return None
    uid = None if command.user is None else _uid(command.user)
    gid = None if command.group is None else _gid(command.group)
    groups = None if command.extra_groups is None else tuple(_gid(group) for group in command.extra_groups)
    if complete and uid is not None and uid != os.geteuid():
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            groups = () if groups is None else groups
        else:
            gid = entry.pw_gid if gid is None else gid
            groups = tuple(os.getgrouplist(entry.pw_name, gid)) if groups is None else groups
    return Ids(uid, gid, groups)


def _uid(user: int | str) -> int:
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise SpawnError(EINVAL, "no such user", user, stage="ids") from None


def _gid(group: int | str) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SpawnError(EINVAL, "no such group", group, stage="ids") from None


_set = object.__setattr__  # past the frozen __setattr__ of the dataclass
_sayings: dict[tuple[str, ...], tuple[str, ...]] = {}


def _make(cls: type[Command], args: object, options: Mapping[str, object]) -> Command:
    command = cls.__new__(cls)
    _fill(command, args, options)
    return command


def _fill(command: Command, args: object, options: Mapping[str, object]) -> None:
    """Check and store what was given, and only that."""
    _set_args(command, args)
    if options:
        _say(command, [], options)


def _set_args(command: Command, args: object) -> None:
    strings = _args(args)
    _set(command, "args", strings)
    _set(command, "args_block", _args_block(strings))


def _say(command: Command, said: list[str], options: Mapping[str, object]) -> None:
    """Check and store options on top of what was `said` before."""
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise _unknown_option(name)
        _set(command, name, check(name, value))
    said += [name for name in options if name not in said]
    if "env" in options:
        _set(command, "env_block", None if command.env is None else _env_block(command.env))
    if command.input is not None:
        if "stdin" not in said:
            said.append("stdin")
        elif command.stdin != PIPE:
            raise ValueError("input needs standard input for itself: leave stdin out")
        _set(command, "stdin", PIPE)
    elif command.stdin == PIPE:
        raise ValueError("stdin=PIPE has nothing to feed it: pass the bytes as input=, or leave stdin out")
    if said:
        _set(command, "plain", False)
        # One tuple for all commands of which the same is said.
        _set(command, "_said", _sayings.setdefault(tuple(said), tuple(said)))


def plain_block(args: object) -> bytes | None:
    """The arguments as bytes, each ended by a NUL, if they are a list or tuple of sound strings.

    None for all else, which a Command takes or refuses: this is for the many starts that say no more.
    """
    if type(args) not in _PLAIN_LISTS or not args:
        return None
    try:
        block = "\0".join((*args, "")).encode(_ENCODING, _ENCODING_ERRORS)  # type: ignore[misc]
    except (TypeError, UnicodeEncodeError):
        return None
    # If the first one is empty, the block begins with its end.
    return block if block.count(b"\0") == len(args) and block[0] else None  # type: ignore[arg-type]


def plain_command(args: tuple[Arg, ...]) -> Command:
    """The Command of arguments that plain_block() has looked at."""
    return _make(Command, args, {})


def _unknown_option(name: str) -> TypeError:
    import difflib

    nearest = difflib.get_close_matches(name, [*_CHECKS, "args"], n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return TypeError(f"Command has no option {name!r}{hint}")


# ---- arguments and environment ----

_PLAIN_LISTS = (list, tuple)
_ENCODING = sys.getfilesystemencoding()
_ENCODING_ERRORS = sys.getfilesystemencodeerrors()


def _args(args: object) -> tuple[Arg, ...]:
    if isinstance(args, (list, tuple)):
        strings = tuple(args)
    elif isinstance(args, (str, bytes)):
        raise TypeError(
            f"args must be a list such as ['sort', '-u', 'names.txt'], not the string {args!r}: there is no "
            "hidden shell; shlex.split() cuts a command line into words, ['sh', '-c', ...] has a shell"
        )
    elif isinstance(args, os.PathLike):
        raise TypeError(f"args must be a list: [{args!r}], not {args!r}")
    elif isinstance(args, Sequence) and not isinstance(args, (bytearray, memoryview)):
        strings = tuple(args)
    else:
        raise TypeError(f"args must be a list of str, bytes or PathLike, not {type(args).__name__}")
    if not strings:
        raise ValueError("args is empty: it must name a program")
    if not strings[0] and isinstance(strings[0], (str, bytes)):
        raise ValueError("args[0] is empty: it must name a program")
    return strings


def _args_block(strings: tuple[Arg, ...]) -> bytes:
    try:
        # One join and one encoding for all is four times as fast as one for each.
        block = "\0".join(cast("tuple[str, ...]", strings)).encode(_ENCODING, _ENCODING_ERRORS) + b"\0"
    except (TypeError, UnicodeEncodeError):
        pass
    else:
        if block.count(b"\0") == len(strings):
            return block
    return b"".join(_encode(f"args[{index}]", string) + b"\0" for index, string in enumerate(strings))


def _encode(what: str, string: object) -> bytes:
    if not isinstance(string, (str, bytes, os.PathLike)):
        hint = f"; write {str(string)!r}" if isinstance(string, (int, float)) else ""
        raise TypeError(f"{what} must be str, bytes or PathLike, not {type(string).__name__}{hint}")
    try:
        encoded = os.fsencode(string)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} cannot be encoded as {_ENCODING}: {error.reason}") from error
    if b"\0" in encoded:
        raise ValueError(f"{what} has a NUL byte in it, which ends a string: {string!r}")
    return encoded


def _env(name: str, env: object) -> dict[Any, Any] | None:
    if env is None:
        return None
    if not isinstance(env, Mapping):
        raise TypeError(f"{name} must be a mapping of names to values, not {type(env).__name__}")
    return dict(env)


def _env_block(env: Mapping[Any, Any]) -> bytes:
    if not env:
        return b""
    try:
        block = "\0".join([key + "=" + value for key, value in env.items()]) + "\0"
        names = "\0".join(env)
    except TypeError:
        pass
    else:
        # Two names can be one as bytes only if they are not ASCII: "\udcc3\udca9" is "é" in UTF-8.
        if (
            block.isascii()
            and "" not in env
            and "=" not in names
            and block.count("\0") == len(env)
            and names.count("\0") == len(env) - 1
        ):
            return block.encode("ascii")
    pairs: dict[bytes, bytes] = {}
    for key, value in env.items():
        encoded = _encode(f"the environment name {key!r}", key)
        if not encoded:
            raise ValueError("an environment name is empty")
        if b"=" in encoded:
            raise ValueError(f"the environment name {key!r} has a '=' in it")
        if encoded in pairs:
            raise ValueError(f"the environment name {key!r} is there twice")
        pairs[encoded] = _encode(f"the value of the environment name {key!r}", value)
    return b"".join([key + b"=" + value + b"\0" for key, value in pairs.items()])


# ---- options: each check takes name and value, and returns what is stored ----


def _path(name: str, value: object) -> object:
    if not _encode(name, value):
        raise ValueError(f"{name} is an empty path")
    return value


def _optional_path(name: str, value: object) -> object:
    return None if value is None else _path(name, value)


def _stdin(name: str, value: object) -> object:
    if isinstance(value, (str, bytes, os.PathLike)):
        return _path(name, value)
    if isinstance(value, LogFile):
        raise TypeError("stdin cannot be a LogFile; pass the path to read from")
    return _stream(name, value)


def _stdout(name: str, value: object) -> object:
    if isinstance(value, (str, bytes, os.PathLike)):
        _path(name, value)
        return LogFile(value)
    return value if isinstance(value, LogFile) else _stream(name, value)


def _stderr(name: str, value: object) -> object:
    return STDOUT if value == STDOUT and not isinstance(value, bool) else _stdout(name, value)


def _stream(name: str, value: object) -> object:
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError(f"{name} cannot be {value}; use None, DEVNULL, PIPE, a path, a file or a descriptor")
    if isinstance(value, int):
        if value == STDOUT:
            raise ValueError(f"STDOUT is for stderr only, not for {name}")
        if not -1 < value < 2**31 and value not in (PIPE, DEVNULL):
            raise ValueError(f"{name}: {value} is not a descriptor")
        return int(value)
    if getattr(value, "closed", False) is True:
        raise ValueError(f"{name}: {value!r} is closed")
    if not callable(getattr(value, "fileno", None)):
        raise TypeError(f"{name} must be None, DEVNULL, PIPE, a path, a file or a descriptor, not {value!r}")
    try:
        cast(HasFileno, value).fileno()
    except ValueError as error:  # io.UnsupportedOperation is one too
        raise ValueError(f"{name}: {value!r} has no descriptor; use PIPE to have the bytes here") from error
    return value


def _input(name: str, value: object) -> object:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        raise TypeError(f"{name} must be bytes, not str: say in which encoding, as in text.encode()")
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name} must be bytes, not {type(value).__name__}")


# What the kernel's clock can express in nanoseconds, and more than anybody waits for: 292 years.
_FOREVER = 9.2e9


def _seconds(name: str, value: object) -> float:
    seconds = float(_checks.seconds(name, value))  # type: ignore[arg-type]
    return seconds if seconds < _FOREVER else math.inf


def _optional_seconds(name: str, value: object) -> float | None:
    seconds = None if value is None else _seconds(name, value)
    return None if seconds == math.inf else seconds


def _grace(name: str, value: object) -> float:
    return min(_seconds(name, value), _FOREVER)


_SIGNALS = frozenset(int(number) for number in signal.valid_signals())


def _signal(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a signal such as signal.SIGTERM, not {value!r}")
    if value not in _SIGNALS:
        raise ValueError(f"{name}: there is no signal {value}")
    return value


def _limits(name: str, value: object) -> object:
    if value is not None and not isinstance(value, Limits):
        raise TypeError(f"{name} must be a Limits, as in Limits(memory=2**30), not {value!r}")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return int(value)


def _between(low: int, high: int, shown: str) -> Callable[[str, object], int | None]:
    def check(name: str, value: object) -> int | None:
        if value is not None and not low <= _whole(name, value) <= high:
            raise ValueError(f"{name} must be {shown}, not {value}")
        return cast("int | None", value)

    return check


_MAX_ID = 2**32 - 2  # the highest number, (uid_t) -1, means "leave it as it is" to the kernel


def _user_or_group(name: str, value: object) -> object:
    if isinstance(value, str):
        if not value or "\0" in value:
            raise ValueError(f"{name}: {value!r} is not a name")
    elif not 0 <= _name_or_number(name, value) <= _MAX_ID:
        raise ValueError(f"{name}: {value} is not an id")
    return value


def _name_or_number(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a name or a number, not {value!r}")
    return value


def _optional_user_or_group(name: str, value: object) -> object:
    return None if value is None else _user_or_group(name, value)


def _extra_groups(name: str, value: object) -> object:
    if value is None:
        return None
    groups = tuple(_group_of_many(name, group) for group in _collection(name, value, "groups"))
    if len(groups) > MOST_GROUPS:
        raise ValueError(f"{name} has {len(groups)} groups, and the kernel takes {MOST_GROUPS} at most")
    return groups


MOST_GROUPS: Final = 65536  # NGROUPS_MAX of linux/limits.h, see setgroups(2)


def _group_of_many(name: str, group: object) -> object:
    if isinstance(group, bool) or not isinstance(group, (int, str)):
        raise TypeError(f"{name}: {group!r} is neither the name nor the number of a group")
    return _user_or_group(name, group)


def _number_of_many(name: str, value: object, of_what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: {value!r} is not the number of a {of_what}")
    return int(value)


def _cpu_affinity(name: str, value: object) -> object:
    if value is None:
        return None
    cpus = frozenset(_number_of_many(name, cpu, "CPU") for cpu in _collection(name, value, "CPU numbers"))
    if not cpus:
        raise ValueError(f"{name} is empty: it must name a CPU")
    for cpu in cpus:
        if not 0 <= cpu < 8192:  # the most that Linux can be built for
            raise ValueError(f"{name}: {cpu} is not the number of a CPU")
    return cpus


def _pass_fds(name: str, value: object) -> object:
    descriptors = {
        _number_of_many(name, number, "descriptor") for number in _collection(name, value, "descriptors")
    }
    for descriptor in descriptors:
        if 0 <= descriptor <= 2:
            raise ValueError(f"{name}: {descriptor} is a standard stream; use {_STREAMS[descriptor]}=")
        if not 0 <= descriptor < 2**31:
            raise ValueError(f"{name}: {descriptor} is not a descriptor")
    return tuple(sorted(descriptors))


_STREAMS = ("stdin", "stdout", "stderr")


def _collection(name: str, value: object, of_what: str) -> Iterable[object]:
    if isinstance(value, (Sequence, AbstractSet, range)) and not isinstance(value, (str, bytes)):
        return value
    raise TypeError(f"{name} must be a list or set of {of_what}, not {value!r}")


def _bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _optional_bool(name: str, value: object) -> bool | None:
    return None if value is None else _bool(name, value)


def _one_of(*choices: str | None) -> Callable[[str, object], str | None]:
    def check(name: str, value: object) -> str | None:
        if (value is None or isinstance(value, str)) and value in choices:
            return value
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")

    return check


def _tags(name: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of str to str, not {value!r}")
    for key, word in value.items():
        if not isinstance(key, str) or not isinstance(word, str):
            raise TypeError(f"{name} must be a mapping of str to str, but has {key!r}: {word!r}")
    return dict(value)


_CHECKS: dict[str, Callable[[str, object], object]] = {
    "cwd": _optional_path,
    "env": _env,
    "stdin": _stdin,
    "stdout": _stdout,
    "stderr": _stderr,
    "input": _input,
    "timeout": _optional_seconds,
    "idle_timeout": _optional_seconds,
    "grace": _grace,
    "stop_signal": _signal,
    "limits": _limits,
    "nice": _between(-20, 19, "from -20 to 19"),
    "umask": _between(0, 0o777, "from 0 to 0o777"),
    "user": _optional_user_or_group,
    "group": _optional_user_or_group,
    "extra_groups": _extra_groups,
    "cpu_affinity": _cpu_affinity,
    "no_new_privs": _bool,
    "pass_fds": _pass_fds,
    "start_new": _one_of("session", "group", None),
    "containment": _one_of("auto", "session", "cgroup", "guard"),
    "leftovers": _one_of("stop", "keep"),
    "die_with_parent": _optional_bool,
    "max_output": _between(1, 2**62, "from 1 to 2**62 bytes"),
    "on_max_output": _one_of("truncate", "stop", "wait"),
    "tags": _tags,
}

_DEFAULTS: dict[str, object] = {
    item.name: {} if item.name == "tags" else item.default
    for item in dataclasses.fields(Command)
    if item.name in _CHECKS
}


def _shown(name: str, value: object) -> str:
    if name == "env":
        return f"<{len(cast('Mapping[object, object]', value))} names>"
    if name == "input":
        return f"<{len(cast(bytes, value))} bytes>"
    return repr(value)
