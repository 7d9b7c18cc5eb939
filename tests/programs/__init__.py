"""The tiny programs that tests start, each of which misbehaves in one way.

Every method of `Programs` gives the argument list of one of them. The C sources beside this file are
compiled the first time that one is asked for, into a directory of this test run. The programs give up
by themselves after two minutes; `Programs.end_all` ends what a failed test has left, found by the file it
executes: that also works for what cleared its environment, left its session or stopped itself.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-pthread")
NOP_FLAGS = ("-O2", "-static", "-nostdlib")


def compiler() -> str | None:
    """The C compiler of this machine, if it has one."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def _compiled(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, check=False)


class Programs:
    """Argument lists of the test programs; one object serves a whole test run."""

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        if directory is None:
            directory = tempfile.mkdtemp(prefix="fastproc-programs-")
            atexit.register(self._remove)
        self.directory = Path(directory).resolve()
        self._lock = threading.Lock()

    def path(self, name: str) -> str:
        """The program of that name, compiled if need be."""
        target = self.directory / name
        with self._lock:
            if not target.exists():
                self._compile(name, target)
        return str(target)

    def _compile(self, name: str, target: Path) -> None:
        cc = compiler()
        if cc is None:
            raise RuntimeError("the test programs need a C compiler: install gcc or clang")
        source = str(SOURCES / f"{name}.c")
        # Under another name first: a file that is written and executed at once gives ETXTBSY, see execve(2).
        draft = f"{target}.draft"
        flags = NOP_FLAGS if name == "nop" else FLAGS
        made = _compiled(cc, *flags, "-o", draft, source)
        if made.returncode != 0 and name == "nop":
            made = _compiled(cc, "-O2", "-o", draft, source)
        if made.returncode != 0:
            raise RuntimeError(f"{source} does not compile:\n{made.stderr}")
        os.replace(draft, target)

    def running(self) -> list[int]:
        """The processes, zombies excepted, that execute one of the programs."""
        prefix = f"{self.directory}{os.sep}"
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/exe").startswith(prefix):
                    found.append(int(entry))
            except OSError:
                continue  # gone, a zombie, or not ours to look at
        return found

    def end_all(self) -> list[int]:
        """Kill whatever still executes one of the programs, and say what that was."""
        ended: list[int] = []
        for _ in range(100):  # a fork bomb needs more than one round
            left = self.running()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    continue
            ended += [pid for pid in left if pid not in ended]
        return ended

    def _remove(self) -> None:
        self.end_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _args(self, name: str, *words: object) -> list[str]:
        return [self.path(name), *(str(word) for word in words if word is not None and word != "")]

    # Ends.

    def nop(self) -> list[str]:
        """Ends at once with code 0; without libc and loader, for measuring."""
        return self._args("nop")

    def exits_with(self, code: int, after: float = 0) -> list[str]:
        """Exits with this code after so many seconds."""
        return self._args("exits_with", code, after)

    def dies_by(self, sig: int, *, core: bool = False) -> list[str]:
        """Kills itself by this signal; without a core file unless `core`."""
        return self._args("dies_by", int(sig), "core" if core else "")

    def ready_then_sleep(self, seconds: float | None = None) -> list[str]:
        """Says `ready <pid>`, sleeps for so long (for ever), exits 0."""
        return self._args("ready_then_sleep", seconds)

    def cleans_up(self, seconds: float = 0, code: int = 0) -> list[str]:
        """Says `ready <pid>`; at SIGTERM `cleaning`, works for so long, says `clean`, exits with the code."""
        return self._args("cleans_up", seconds, code)

    def leader_thread_exits(self, seconds: float, code: int = 0) -> list[str]:
        """Its first thread ends (a zombie in /proc), another exits with the code after so many seconds."""
        return self._args("leader_thread_exits", seconds, code)

    # Stubborn ones.

    def ignores_sigterm(self) -> list[str]:
        """Says `ready <pid>`, ignores SIGTERM, SIGINT and SIGHUP."""
        return self._args("ignores_sigterm")

    def becomes_root(self) -> list[str]:
        """Installed setuid root: becomes root, ignores SIGTERM, says `ready <pid>`; else exits 3."""
        return self._args("becomes_root")

    def reports_signals(self) -> list[str]:
        """Says `ready <pid>`, then `got <signal> from <pid>` for each signal, and lives on."""
        return self._args("reports_signals")

    def stops_itself(self, code: int = 0) -> list[str]:
        """Says `ready <pid>`, stops by SIGSTOP; when continued says `continued` and exits with the code."""
        return self._args("stops_itself", code)

    def joins_the_group_of(self, pid: int) -> list[str]:
        """Tries to join the process group of `pid`; says `ready joined` or `ready <errno>`, sleeps."""
        return self._args("joins_the_group_of", pid)

    def reborn_as(self, pid: int) -> list[str]:
        """Makes a process of this pid, which leads a session: `ready <pid>`, or `refused <errno>`; waits."""
        return self._args("reborn_as", pid)

    def kills_at_call(self, pid: int, n: int, *, every: bool = False) -> list[str]:
        """Says `ready`, kills `pid` at its n-th system call that leaves a trace (`every`: of any kind), says
        `killed <call>`; then `ended <count>`. `refused <errno>` without ptrace(2).
        """
        return self._args("kills_at_call", pid, n, "all" if every else "")

    def holds_its_lock(
        self, directory: str | os.PathLike[str], name: str, seconds: float = 0, code: int = 0, *words: str
    ) -> list[str]:
        """Appends `start <name> <pid>` and `end ...` to directory/journal, or `twice ...` if another one runs
        by that name. `deaf`, `child`, `closes`: see the source.
        """
        return self._args("holds_its_lock", os.fspath(directory), name, seconds, code, *words)

    # Families.

    def forks_a_tree(
        self,
        depth: int = 2,
        width: int = 2,
        *,
        ignore: bool = False,
        setsid: bool = False,
        leave: bool = False,
    ) -> list[str]:
        """Says `pid <pid>` per process of the tree, then `ready <count>`; all sleep.

        `ignore`: they ignore SIGTERM. `setsid`: each child leads a session. `leave`: the root exits 0.
        """
        words = ("ignore" if ignore else "", "setsid" if setsid else "", "leave" if leave else "")
        return self._args("forks_a_tree", depth, width, *words)

    def leaves_a_child(
        self, code: int = 0, *, group: bool = False, session: bool = False, ignore: bool = False
    ) -> list[str]:
        """Says `child <pid>` and exits with the code; the child sleeps without any stream.

        `group`, `session`: the child leads one of its own. `ignore`: it ignores SIGTERM.
        """
        words = ("group" if group else "", "session" if session else "", "ignore" if ignore else "")
        return self._args("leaves_a_child", code, *words)

    def daemonizes(self, *, keep: bool = False, stay: bool = False) -> list[str]:
        """Double fork with setsid; the daemon says `daemon <pid>` and lives on.

        `keep`: it holds on to standard output. `stay`: the first process sleeps instead of exiting 0.
        """
        return self._args("daemonizes", "keep" if keep else "", "stay" if stay else "")

    def fork_bomb(self, n: int = 100, *, setsid: bool = False, quick: bool = False) -> list[str]:
        """Says `ready <pid>` and forks on until n were born in all, then `full`; none ends by itself."""
        return self._args("fork_bomb", n, "setsid" if setsid else "", "quick" if quick else "")

    # Streams.

    def holds_the_pipe(self, *, setsid: bool = False, chatter: bool = False) -> list[str]:
        """Says `leader done <pid of the child>` and exits 0, the child keeps the streams open for ever.

        `setsid`: the child leads a session. `chatter`: it writes a line every 5 ms.
        """
        return self._args("holds_the_pipe", "setsid" if setsid else "", "chatter" if chatter else "")

    def spams(self, total: int = 0, *, stderr: bool = False, lines: bool = False) -> list[str]:
        """Writes so many bytes (0: without end); `lines`: numbered lines of 64 bytes, else a run of `x`."""
        return self._args("spams", total, "stderr" if stderr else "", "lines" if lines else "")

    def closes_its_output(self, seconds: float | None = None, code: int = 0) -> list[str]:
        """Says `ready <pid>`, closes its output, lives on for so long (for ever)."""
        return self._args("closes_its_output", seconds, code if seconds is not None else None)

    def reads_stdin_slowly(self, step: int = 4096, pause: float = 0.001) -> list[str]:
        """Reads `step` bytes, pauses, again; in the end says how many bytes came."""
        return self._args("reads_stdin_slowly", step, pause)

    def never_reads_stdin(self, seconds: float | None = None) -> list[str]:
        """Says `ready <pid>` and sleeps; what is fed to it stays in the pipe."""
        return self.ready_then_sleep(seconds)

    def stamps_lines(self) -> list[str]:
        """Copies its input as `<time> <line>`, in nanoseconds of the monotonic clock; then `<time> end`."""
        return self._args("stamps_lines")

    # Appetite.

    def burns_cpu(self, seconds: float | None = None, *, ignore: bool = False) -> list[str]:
        """Says `ready <pid>`, uses so much CPU time (without end); `ignore`: also after SIGXCPU."""
        return self._args("burns_cpu", seconds, "ignore" if ignore else "")

    def eats_memory(self, size: int) -> list[str]:
        """Touches that much memory, says `ready <pid>`, sleeps; or says `refused` and exits 3."""
        return self._args("eats_memory", size)

    # Mirrors: what a child finds itself born with.

    def prints_fds(self) -> list[str]:
        """Its descriptors as JSON: `{"0": "/dev/null", ...}`."""
        return self._args("prints_fds")

    def prints_signals(self) -> list[str]:
        """Its signal sets as JSON lists: blocked, ignored, caught, pending."""
        return self._args("prints_signals")

    def prints_limits(self) -> list[str]:
        """Its nine limits as JSON `name: [soft, hard]`, named as in `Limits`; -1 means unlimited."""
        return self._args("prints_limits")

    def prints_ids(self) -> list[str]:
        """Who and where it is, as JSON: pid, ppid, pgid, sid, uids, groups, umask, ...: see the source."""
        return self._args("prints_ids")

    def prints_env(self) -> list[str]:
        """Its environment byte for byte, each string ended by a NUL."""
        return self._args("prints_env")

    def prints_args(self) -> list[str]:
        """Its arguments byte for byte, each ended by a NUL."""
        return self._args("prints_args")
