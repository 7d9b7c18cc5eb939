"""What the drop-in promises beyond the standard module: times, descendants, statuses, descriptors."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import eventually, open_descriptors
from tests.watch import opens_pidfds

import fastproc
from fastproc import subprocess
from fastproc.subprocess import PIPE, differences

PYTHON = sys.executable
NO_CGROUP = "cgroup"
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _no_difference_is_left_switched_off() -> Iterator[None]:
    yield
    for name in ("invented_status", "spared_descendants", "endless_pipes", "bytes_in_timeouts"):
        setattr(differences, name, False)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


def end(pid: int) -> None:
    """For those whom a test leaves alive on purpose."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    assert eventually(lambda: is_gone(pid))


# A shell whose grandchild tells its pid, holds the pipe, and lives in a group of one of several kinds.
GRANDCHILDREN = {
    "in the caller's group": "sleep 1000 & echo $!; wait",
    "in a session of its own": "setsid sleep 1000 & echo $!; wait",
    "in a group of its own": "set -m; sleep 1000 & echo $!; wait",
    "of a child that waits": "sh -c 'sleep 1000 & echo $!; wait'",
}


@pytest.mark.parametrize("where", GRANDCHILDREN)
def test_a_timeout_ends_the_descendants_and_returns_in_time(where: str) -> None:
    """Whatever group they are in, and though they hold the pipe."""
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(GRANDCHILDREN[where], shell=True, stdout=PIPE, text=True, timeout=1.0)
    took = time.monotonic() - begun

    pid = int(caught.value.stdout)
    assert eventually(lambda: is_gone(pid))
    assert 1.0 <= took < 2.0 + 1.0  # the last second is for a busy machine
    assert caught.value.timeout == 1.0


@pytest.mark.parametrize("where", GRANDCHILDREN)
def test_a_timeout_ends_the_descendants_without_a_cgroup(where: str) -> None:
    """Found by their parents, groups and sessions."""
    program = (
        "import sys\n"
        "from fastproc import subprocess\n"
        "try:\n"
        "    subprocess.run(sys.argv[1], shell=True, stdout=subprocess.PIPE, text=True, timeout=1)\n"
        "except subprocess.TimeoutExpired as expired:\n"
        "    print(expired.stdout.strip())\n"
    )
    done = subprocess.run(
        [PYTHON, "-c", program, GRANDCHILDREN[where]],
        env={**os.environ, "FASTPROC_DISABLE": NO_CGROUP},
        stdout=PIPE,
        check=True,
    )
    pid = int(done.stdout)
    assert eventually(lambda: is_gone(pid))


@pytest.mark.skipif(not fastproc.capabilities()["cgroup"], reason="there is no writable cgroup v2 directory")
def test_a_timeout_ends_an_orphan_in_a_cgroup() -> None:
    """Whose parents are gone, and whose group is ours: only its cgroup tells."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run("sh -c 'sleep 1000 & echo $!'", shell=True, stdout=PIPE, timeout=0.7)
    pid = int(caught.value.stdout)
    assert eventually(lambda: is_gone(pid))


@pytest.mark.parametrize("function", ["check_output", "call", "check_call", "run"])
def test_every_function_with_a_timeout_ends_descendants(function: str, tmp_path: Path) -> None:
    """Those that capture, and those that do not."""
    note = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        getattr(subprocess, function)(f"sleep 1000 & echo $! >{note}; wait", shell=True, timeout=0.7)
    pid = int(note.read_text())
    assert eventually(lambda: is_gone(pid))


def test_the_long_way_ends_descendants_as_well() -> None:
    """With an argument that the call into C does not know."""
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(
            "setsid sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, text=True, timeout=0.7, umask=0o22
        )
    pid = int(caught.value.stdout)
    assert eventually(lambda: is_gone(pid))


def test_descendants_can_be_spared() -> None:
    """The switch for the old way: the child alone is killed."""
    differences.spared_descendants = True
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run("sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, text=True, timeout=0.5)
    pid = int(caught.value.stdout)
    assert not is_gone(pid)
    assert time.monotonic() - begun < PATIENCE
    end(pid)


def test_without_a_timeout_descendants_live_on() -> None:
    """As they always did, also after a time-out that was not reached."""
    for timeout in (None, PATIENCE):
        done = subprocess.run(
            "sleep 1000 >/dev/null & echo $!", shell=True, stdout=PIPE, text=True, timeout=timeout
        )
        pid = int(done.stdout)
        assert not is_gone(pid)
        end(pid)


def test_with_a_grace_they_may_clean_up() -> None:
    """SIGTERM first, to all of them, and their last words are read."""
    script = (
        "sh -c 'trap \"echo grandchild; exit\" TERM; echo ready; while :; do sleep 0.05; done' &"
        "trap 'wait; echo child; exit' TERM; while :; do sleep 0.05; done"
    )
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(script, shell=True, stdout=PIPE, text=True, timeout=1.5, grace=20)
    assert caught.value.stdout.split() == ["ready", "grandchild", "child"]


def test_who_ignores_sigterm_is_killed_after_the_grace() -> None:
    """And not before."""
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run("trap '' TERM; while :; do sleep 0.05; done", shell=True, timeout=0.3, grace=0.5)
    assert 0.8 <= time.monotonic() - begun < PATIENCE


def test_the_output_so_far_is_text_in_text_mode() -> None:
    """Half a character at its end is left out."""
    script = "printf 'a\\r\\nb\\303'; printf err >&2; sleep 1000"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(script, shell=True, capture_output=True, encoding="utf-8", timeout=0.7)
    assert (caught.value.stdout, caught.value.stderr) == ("a\nb", "err")

    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.check_output(script, shell=True, timeout=0.7)
    assert caught.value.output == b"a\r\nb\xc3"

    differences.bytes_in_timeouts = True
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(script, shell=True, capture_output=True, encoding="utf-8", timeout=0.7)
    assert caught.value.stdout == b"a\r\nb\xc3"


def test_an_idle_timeout_counts_from_the_last_byte() -> None:
    """It does not end a program that writes, and tells which clock it was."""
    chatty = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done"
    assert subprocess.run(chatty, shell=True, stdout=PIPE, idle_timeout=10).stdout.split()[-1] == b"6"
    with pytest.raises(subprocess.IdleTimeoutExpired, match=r"wrote nothing for 0\.5 seconds") as caught:
        subprocess.run(
            "echo x; sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, text=True, idle_timeout=0.5
        )
    pid = int(caught.value.stdout.split()[1])
    assert eventually(lambda: is_gone(pid))

    with subprocess.Popen("echo x; exec sleep 1000", shell=True, stdout=PIPE, idle_timeout=0.5) as process:
        with pytest.raises(subprocess.IdleTimeoutExpired):
            process.communicate()
        assert process.poll() is None
        process.kill()
    with pytest.raises(ValueError, match="idle_timeout"):
        subprocess.run(["true"], idle_timeout=1)
    with pytest.raises(ValueError, match="idle_timeout"):
        subprocess.Popen(["true"], idle_timeout=1)


def test_communicate_after_kill_is_bounded() -> None:
    """The recipe of the documentation: a grandchild that holds the pipe holds up nobody."""
    with subprocess.Popen("sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, stderr=PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.5)
        begun = time.monotonic()
        process.kill()
        output, _ = process.communicate()
        assert time.monotonic() - begun < 3
    assert not is_gone(int(output))
    end(int(output))


@pytest.mark.parametrize("text", [False, True])
def test_communicate_after_kill_is_bounded_with_one_pipe(text: bool) -> None:
    """Where the standard module reads the stream itself."""
    process = subprocess.Popen("exec 3>&1; sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, text=text)
    assert process.stdout is not None
    holder = int(process.stdout.readline())
    process.kill()
    assert process.communicate()[0] in ("", b"")
    assert process.returncode == -9
    assert not is_gone(holder)
    end(holder)


def test_nothing_that_was_read_before_is_lost() -> None:
    """A line by hand, the rest by communicate()."""
    script = "printf 'one\\ntwo\\nthree\\n'"
    for text, joined in ((True, "two\nthree\n"), (False, b"two\nthree\n")):
        with subprocess.Popen(script, shell=True, stdout=PIPE, text=text) as process:
            assert process.stdout is not None
            assert len(process.stdout.readline()) == 4
            assert process.communicate()[0] == joined
    with subprocess.Popen(script, shell=True, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        assert process.communicate() == (b"two\nthree\n", b"")


def test_communicate_goes_on_where_a_timeout_has_left_it() -> None:
    """With input and output larger than a pipe."""
    data = bytes(range(256)) * 4096
    slow = "import sys, time; d = sys.stdin.buffer.read(); time.sleep(1); sys.stdout.buffer.write(d)"
    with subprocess.Popen([PYTHON, "-c", slow], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(data, timeout=0.2)
        assert process.communicate() == (data, b"")


def test_large_streams_come_through(tmp_path: Path) -> None:
    """Both ways at once, more than any buffer."""
    data = os.urandom(1 << 20) * 20
    assert subprocess.run(["cat"], input=data, stdout=PIPE).stdout == data
    with subprocess.Popen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.communicate(data)[0] == data
    both = "import sys; b = b'x' * 3_000_000; sys.stdout.buffer.write(b); sys.stderr.buffer.write(b)"
    done = subprocess.run([PYTHON, "-c", both], capture_output=True)
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 3_000_000)


# ---- statuses ----


def reap_behind_its_back(pid: int) -> None:
    os.waitpid(pid, 0)


def test_who_goes_on_writing_after_a_kill_is_listened_to_for_a_while_only() -> None:
    """Half a second after the end of the child its streams are given up, and the writer hears of that."""
    script = "(while :; do echo x; done) & echo $! >&2; exec sleep 1000"
    process = subprocess.Popen(["sh", "-c", script], stdout=PIPE, stderr=PIPE)
    with process:
        assert process.stderr is not None
        writer = int(process.stderr.readline())
        process.kill()
        begun = time.monotonic()
        output, _ = process.communicate()
        assert time.monotonic() - begun < 5.0
    assert output.startswith(b"x\n")
    assert process.returncode == -signal.SIGKILL
    assert eventually(lambda: is_gone(writer))


def test_one_that_never_reads_its_input_has_its_time_limit() -> None:
    """What does not fit into the pipe waits, and nobody waits for it."""
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "1000"], input=bytes(5_000_000), stdout=PIPE, timeout=0.5)
    assert time.monotonic() - begun < PATIENCE / 2


def test_a_broken_pipe_does_not_end_a_host_that_would_die_of_it() -> None:
    """SIGPIPE at its default, in all three ways to feed a child that does not read."""
    script = """
import signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
from fastproc import subprocess
from fastproc.subprocess import PIPE
data = bytes(3_000_000)
assert subprocess.run(["true"], input=data).returncode == 0
assert subprocess.run(["true"], input=data, capture_output=True, timeout=600).returncode == 0
with subprocess.Popen(["true"], stdin=PIPE, stdout=PIPE) as process:
    assert process.communicate(data) == (b"", None)
"""
    assert subprocess.run([PYTHON, "-c", script]).returncode == 0


def test_the_childs_ends_of_the_pipes_block_as_programs_expect() -> None:
    """O_NONBLOCK is for our ends only."""
    script = "import fcntl, os; print([fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK for fd in range(3)])"
    args = [PYTHON, "-c", script]
    assert subprocess.run(args, input=b"", stdout=PIPE, stderr=PIPE).stdout == b"[0, 0, 0]\n"
    with subprocess.Popen(args, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.communicate(b"")[0] == b"[0, 0, 0]\n"


def test_one_that_has_stopped_itself_hears_that_it_shall_end() -> None:
    """SIGCONT comes behind SIGTERM, so it cleans up."""
    script = "trap 'echo cleaned up; exit' TERM; echo ready; kill -STOP $$; sleep 1000 & wait"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(["sh", "-c", script], stdout=PIPE, timeout=1.0, grace=PATIENCE)
    assert caught.value.output == b"ready\ncleaned up\n"


def test_a_stop_that_races_with_the_end_tells_the_truth() -> None:
    """It ended by itself, or was ended; never an exception."""
    for turn in range(40):
        with subprocess.Popen(["sh", "-c", "exit 7"]) as process:
            time.sleep(turn % 8 * 0.0005)
            assert process.stop() in {7, -signal.SIGKILL}
            assert process.stop() == process.returncode
            process.kill()  # nobody is there to be hit


OUTPUT_AND_PEAK = """
import re
from {module} import PIPE, Popen, run
def peak():  # of this program: ru_maxrss begins with what its parent had
    return int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
half = "head -c " + str({bytes} // 2) + " /dev/zero"
args = ["sh", "-c", half + "; sleep {pause}; " + half]
before = peak()
output = {call}
assert len(output) == {bytes} and not output.strip(b"\\0")
print(peak() - before)
"""


@pytest.mark.parametrize(
    "call",
    [
        "run(args, stdout=PIPE).stdout",
        "run(args, capture_output=True).stdout",
        "run(args, stdout=PIPE, timeout=600).stdout",
        "Popen(args, stdout=PIPE).communicate()[0]",
        "Popen(args, stdout=PIPE, stderr=PIPE).communicate()[0]",
    ],
)
@pytest.mark.parametrize("pause", [0, 0.2])
def test_a_large_output_is_in_memory_once(call: str, pause: float) -> None:
    """Its peak is that of the standard module with one pipe, which reads into what it returns.

    Also where it pauses, and the reader looks for signals meanwhile.
    """
    size = 64 << 20

    def peak_kib(module: str, call: str) -> int:
        script = OUTPUT_AND_PEAK.format(module=module, call=call, bytes=size, pause=pause)
        return int(subprocess.check_output([PYTHON, "-c", script]))

    theirs = peak_kib("subprocess", "run(args, stdout=PIPE).stdout")
    mine = peak_kib("fastproc.subprocess", call)
    assert size >> 10 <= mine < theirs * 1.25


def test_lengths_round_the_steps_of_growth_come_through() -> None:
    """What fits exactly, and one byte more or less."""
    for step in (0, 1, 4 << 10, 8 << 10, 64 << 10, 72 << 10, 1 << 20, 2 << 20):
        for size in {max(step - 1, 0), step, step + 1}:
            script = f"head -c {size} /dev/zero | tr '\\0' x; head -c {size} /dev/zero | tr '\\0' y >&2"
            done = subprocess.run(["sh", "-c", script], capture_output=True)
            assert (done.stdout, done.stderr) == (b"x" * size, b"y" * size)
            assert subprocess.check_output(["head", "-c", str(size), "/dev/zero"]) == bytes(size)


@pytest.mark.parametrize("much", [0, 300_000])
def test_a_handler_may_talk_with_the_process_that_is_being_talked_with(much: int) -> None:
    """What it takes of the output is not lost, nor told twice."""
    script = f"head -c {much} /dev/zero; printf hello; sleep 0.4; printf tail; exit 4"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def talk(*_: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=0.01)

    old = signal.signal(signal.SIGALRM, talk)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        out, err = child.communicate()
    finally:
        signal.signal(signal.SIGALRM, old)

    assert (out, err, child.returncode) == (bytes(much) + b"hellotail", b"", 4)


def test_a_large_output_survives_signals_and_timeouts(tmp_path: Path) -> None:
    """Each of them leaves the call in the middle; nothing is lost, and what came before a timeout is told."""
    seen = []
    old = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        done = subprocess.run(["head", "-c", "30000000", "/dev/zero"], capture_output=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert seen
    assert done.stdout == bytes(30_000_000)

    script = "head -c 3000000 /dev/zero; echo >&2; exec sleep 1000"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        subprocess.run(["sh", "-c", script], capture_output=True, timeout=3)
    assert (caught.value.stdout, caught.value.stderr) == (bytes(3_000_000), b"\n")

    gate = tmp_path / "gate"
    script = (
        f"head -c 3000000 /dev/zero; until test -e {gate}; do sleep 0.05; done; head -c 3000001 /dev/zero"
    )
    with subprocess.Popen(["sh", "-c", script], stdout=PIPE) as process:
        for _ in range(100):
            with pytest.raises(subprocess.TimeoutExpired) as caught:
                process.communicate(timeout=0.2)
            if caught.value.output and len(caught.value.output) == 3_000_000:
                break
        gate.touch()
        assert process.communicate() == (bytes(6_000_001), None)


def test_a_handler_that_raises_in_a_large_output_leaves_nobody() -> None:
    """The memory that was lent to it is taken back first."""

    class Enough(Exception):
        pass

    def enough(*_: object) -> None:
        raise Enough

    old = signal.signal(signal.SIGALRM, enough)
    before = len(open_descriptors())
    try:
        for delay in (0.05, 0.2):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Enough):
                subprocess.run(["head", "-c", str(2 << 30), "/dev/zero"], stdout=PIPE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(open_descriptors()) == before


def test_no_memory_for_an_output_is_an_error_and_ends_the_child() -> None:
    """As with subprocess: MemoryError, and the child does not run on."""
    script = """
import resource
from fastproc import subprocess
limit = 400 << 20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for call in (
    lambda: subprocess.run(["yes"], stdout=subprocess.PIPE),
    lambda: subprocess.run(["yes"], capture_output=True, timeout=600),
):
    try:
        call()
    except MemoryError:
        print("no memory")
print(subprocess.run(["echo", "works"], stdout=subprocess.PIPE, text=True).stdout, end="")
"""
    assert subprocess.check_output([PYTHON, "-c", script], text=True).split() == ["no", "memory"] * 2 + [
        "works"
    ]


def test_the_shortest_way_tells_auditors() -> None:
    """One event for each start, with the arguments as a list; what a hook raises stops it."""
    script = """
import sys
from fastproc import subprocess
def hear(name, args):
    if name == "subprocess.Popen":
        print(*args)
        if args[0] == "forbidden":
            raise PermissionError
sys.addaudithook(hear)
subprocess.run(["true"], stdout=subprocess.PIPE)
subprocess.run(("true",))
subprocess.Popen(["true", "x"]).wait()
for function in (subprocess.run, subprocess.Popen):
    try:
        function(["forbidden"])
    except PermissionError:
        print("refused")
"""
    told = subprocess.check_output([PYTHON, "-c", script], text=True).splitlines()
    plain = "true ['true'] None None"
    forbidden = ["forbidden ['forbidden'] None None", "refused"]
    assert told == [plain, plain, "true ['true', 'x'] None None", *forbidden, *forbidden]


def test_the_shortest_way_is_the_same_as_the_others() -> None:
    """Plain calls are read in C: the same errors, and the environment of that time."""
    os.environ["OF_NOW"] = "1"
    assert subprocess.run(["printenv", "OF_NOW"], stdout=PIPE).stdout == b"1\n"
    os.environ["OF_NOW"] = "2"
    assert subprocess.run(["printenv", "OF_NOW"], stdout=PIPE).stdout == b"2\n"
    with subprocess.Popen(["printenv", "OF_NOW"], stdout=PIPE) as process:
        assert process.communicate() == (b"2\n", None)
    del os.environ["OF_NOW"]
    assert subprocess.run(["printenv", "OF_NOW"], stdout=PIPE).returncode == 1

    assert subprocess.run(["echo", "\u00e4\udcff"], stdout=PIPE).stdout == b"\xc3\xa4\xff\n"
    for function in (subprocess.run, subprocess.Popen):
        with pytest.raises(FileNotFoundError) as missing:
            function(["no-such-program"])  # type: ignore[operator]
        assert missing.value.filename == "no-such-program"
        with pytest.raises(ValueError, match="null byte"):
            function(["echo", "a\0b"])  # type: ignore[operator]
    with pytest.raises(ValueError, match="capture_output"):
        subprocess.run(["true"], capture_output=True, stdout=PIPE)
    assert (
        subprocess.run(["sh", "-c", "echo a; echo b >&2"], stdout=PIPE, stderr=subprocess.STDOUT).stdout
        == b"a\nb\n"
    )


@pytest.mark.skipif(
    not fastproc.capabilities()["pidfd_info"], reason="the kernel keeps no status (Linux 6.15)"
)
def test_a_status_that_was_taken_is_still_the_true_one() -> None:
    """Where the standard module says 0."""
    for code, expected in (("exit 7", 7), ("kill -9 $$", -9)):
        process = subprocess.Popen(code, shell=True)
        reap_behind_its_back(process.pid)
        assert process.wait() == expected
        process = subprocess.Popen(code, shell=True)
        reap_behind_its_back(process.pid)
        assert process.poll() == expected


IN_A_LESSER_KERNEL = (
    "import os, subprocess as standard, sys, warnings\n"
    "from fastproc import subprocess\n"
    "warnings.simplefilter('always')\n"
    "process = subprocess.Popen(['sh', '-c', 'exit 7'])\n"
    "os.waitpid(process.pid, 0)\n"
    "if len(sys.argv) > 1: subprocess.differences.invented_status = True\n"
    "print(process.wait(), process.poll(), process.returncode)\n"
    "del process\n"
    "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    "print(subprocess.run(['sh', '-c', 'exit 7']).returncode)\n"
    "try:\n"
    "    subprocess.run(['true'], check=True)\n"
    "except subprocess.CalledProcessError as error:\n"
    "    print(type(error).__name__, error.returncode, error.args)\n"
    "    print(error)\n"
    "print(subprocess.getstatusoutput('echo x; exit 7'))\n"
)


def test_a_status_that_nobody_can_tell_is_none_and_warned_of() -> None:
    """Never 0; and a check is not passed."""
    environment = {**os.environ, "FASTPROC_DISABLE": "pidfd_info"}
    done = subprocess.run(
        [PYTHON, "-c", IN_A_LESSER_KERNEL], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == [
        "None None None",
        "None",
        "StatusUnknown None (None, ['true'])",
        "Command ['true'] has ended, and its exit status was taken by other code of this program.",
        "(None, 'x')",
        "",
    ]
    assert done.stderr.count("RuntimeWarning: the exit status of process") == 4
    assert "ResourceWarning" not in done.stderr

    done = subprocess.run(
        [PYTHON, "-c", IN_A_LESSER_KERNEL, "old"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["0 0 0", "0", "(0, 'x')", ""]
    assert "RuntimeWarning" not in done.stderr


def test_the_whole_status_can_be_asked_for() -> None:
    """Signals, times and usage."""
    with subprocess.Popen("kill -TERM $$", shell=True) as process:
        assert process.status is None or process.status.signal == signal.SIGTERM
        process.wait()
        assert process.status is not None
        assert process.status.signal == signal.SIGTERM
        assert process.status.rusage.max_rss > 0


# ---- the caller ----


def test_a_child_is_in_the_callers_session_and_group() -> None:
    """So Ctrl-C at a terminal reaches it, and job control works."""
    show = "import os; print(os.getsid(0), os.getpgid(0))"
    expected = f"{os.getsid(0)} {os.getpgid(0)}"
    for options in ({}, {"timeout": PATIENCE}, {"grace": 1.0}):
        assert (
            subprocess.run([PYTHON, "-c", show], stdout=PIPE, text=True, **options).stdout.strip() == expected
        )
    with subprocess.Popen([PYTHON, "-c", show], stdout=PIPE, text=True) as process:
        assert process.communicate()[0].strip() == expected


@pytest.mark.parametrize(
    "call",
    [
        "subprocess.run(command)",
        "subprocess.run(command, capture_output=True)",
        "subprocess.run(command, timeout=100)",
        "subprocess.check_output(command)",
        "subprocess.call(command)",
        "subprocess.Popen(command).wait()",
        "subprocess.Popen(command, stdout=-1, stderr=-1).communicate()",
        "subprocess.Popen(command, stdout=-1).communicate()",
    ],
)
def test_ctrl_c_interrupts(call: str, tmp_path: Path) -> None:
    """The exception comes out at once, and the child of a function is killed."""
    note = tmp_path / "pid"
    program = (
        "import sys\n"
        "from fastproc import subprocess\n"
        f"command = ['sh', '-c', 'echo $$ >{note}.new; mv {note}.new {note}; exec sleep 1000']\n"
        "try:\n"
        f"    {call}\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
    )
    with subprocess.Popen([PYTHON, "-W", "ignore", "-c", program], stdout=PIPE, text=True) as process:
        assert eventually(note.exists, PATIENCE)
        pid = int(note.read_text())
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "interrupted\n"
        except BaseException:
            # Else the end of the block would wait for who has not heard it.
            process.kill()
            end(pid)
            raise
        if "Popen" not in call:
            assert eventually(lambda: is_gone(pid))
        end(pid)


def test_a_handler_that_returns_does_not_disturb() -> None:
    """The call goes on where it was."""
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        done = subprocess.run("echo a; sleep 0.5; echo b", shell=True, capture_output=True)
        subprocess.run("sleep 0.3", shell=True)
        with subprocess.Popen("echo a; sleep 0.3; echo b", shell=True, stdout=PIPE, stderr=PIPE) as process:
            assert process.communicate(timeout=PATIENCE)[0] == b"a\nb\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done.stdout == b"a\nb\n"
    assert len(seen) > 5


def test_a_child_outlives_the_interpreter() -> None:
    """It is not managed: nobody ends it."""
    program = (
        "from fastproc import subprocess\n"
        "print(subprocess.Popen(['sleep', '1000'], stdout=subprocess.DEVNULL).pid)\n"
    )
    done = subprocess.run([PYTHON, "-W", "ignore", "-c", program], stdout=PIPE, check=True)
    pid = int(done.stdout)
    assert not is_gone(pid)
    end(pid)


def test_many_threads_at_a_time() -> None:
    """Each hears of its own child, and all that it wrote."""
    wrong = []

    def work(number: int) -> None:
        for turn in range(15):
            said = f"{number}.{turn}"
            done = subprocess.run(["sh", "-c", f"echo {said}; exit {number}"], capture_output=True, text=True)
            if (done.stdout, done.returncode) != (said + "\n", number):
                wrong.append(done)
            with subprocess.Popen(["sh", "-c", f"exit {number}"]) as process:
                if process.wait(timeout=PATIENCE) != number:
                    wrong.append(process.returncode)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_many_threads_may_wait_for_one_child() -> None:
    """All hear the same, however many there are."""
    process = subprocess.Popen("read x; exit 5", shell=True, stdin=PIPE)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(process.wait())) for _ in range(6)]
    threads += [
        threading.Thread(target=lambda: answers.append(process.wait(timeout=PATIENCE))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    process.communicate(b"\n")
    for thread in threads:
        thread.join()
    assert answers == [5] * 12


def test_descriptors_are_given_back() -> None:
    """After success, failure, time-outs, and objects that were forgotten."""
    before = open_descriptors()
    for _ in range(3):
        subprocess.run(["true"], capture_output=True, timeout=PATIENCE)
        with pytest.raises(FileNotFoundError):
            subprocess.run(["no-such-program"], capture_output=True)
        with pytest.raises(FileNotFoundError):
            subprocess.Popen(["no-such-program"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
        with pytest.raises(ValueError, match="null"):
            subprocess.Popen(["a\0b"], stdin=PIPE, stdout=PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["sleep", "1000"], capture_output=True, timeout=0.05)
        subprocess.Popen(["true"]).wait()
    assert open_descriptors() == before


def test_a_child_is_started_when_there_is_no_descriptor_for_its_pidfd() -> None:
    """The standard module needs none for it, so its users do not expect to."""
    capabilities = fastproc.capabilities()
    if not (capabilities["clone3"] or capabilities["clone"]):
        pytest.skip("a start by fork needs a pipe for its report")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 20, hard))
    try:
        while True:
            try:
                held.append(os.dup(held[0]))
            except OSError:
                break
        process = subprocess.Popen(["sh", "-c", "exit 3"])
        assert process.wait() == 3
        assert subprocess.run(["sh", "-c", "exit 3"]).returncode == 3
        slow = subprocess.Popen(["sleep", "1000"])
        with pytest.raises(subprocess.TimeoutExpired):
            slow.wait(timeout=0.1)
        slow.kill()
        assert slow.wait(timeout=PATIENCE) == -9
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_host_that_closes_all_its_descriptors_is_not_harmed() -> None:
    """What it opens then under the number of a pidfd is neither waited for nor closed."""
    program = (
        "import os\n"
        "from fastproc import subprocess\n"
        "first = subprocess.Popen(['sh', '-c', 'exit 3'])\n"
        "os.closerange(3, 100)\n"
        "second = subprocess.Popen(['sh', '-c', 'exit 4'])\n"
        "print(first.wait(), second.wait())\n"
        "third = subprocess.Popen(['sleep', '0'])\n"
        "os.closerange(3, 100)\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(9)]\n"
        "third.wait(); del third\n"
        "print([os.fstat(fd) is None for fd in held].count(False))\n"
    )
    done = subprocess.run([PYTHON, "-c", program], stdout=PIPE, text=True, check=True)
    assert done.stdout == "3 4\n9\n"


def test_a_forked_copy_neither_takes_the_status_nor_makes_one_up() -> None:
    """It can wait for the child of its parent, and the parent still hears the truth."""
    process = subprocess.Popen("read x; exit 6", shell=True, stdin=PIPE)
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy = os.fork()
    if copy == 0:
        try:
            # Without pidfds a copy cannot tell, and says so.
            warnings.simplefilter("ignore")
            early = process.poll()
            os.write(theirs, b"x")
            late = process.wait()
            os.write(theirs, f"{early} {late}".encode())
        finally:
            os._exit(0)
    assert os.read(ours, 1) == b"x"
    process.communicate(b"\n")
    assert process.returncode == 6
    os.waitpid(copy, 0)
    said = os.read(ours, 100).decode()
    assert said == ("None 6" if fastproc.capabilities()["pidfd_info"] else "None None")
    os.close(ours)
    os.close(theirs)


def test_descriptors_are_inherited_only_when_asked() -> None:
    """close_fds=False hands on those without the flag; the default hands on none."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        fds = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd') if int(n) > 2))"
        said = subprocess.run([PYTHON, "-c", fds], stdout=PIPE, text=True).stdout
        assert str(write) not in said.strip("[]\n").split(", ")
        said = subprocess.run([PYTHON, "-c", fds], stdout=PIPE, text=True, close_fds=False).stdout
        assert str(write) in said.strip("[]\n").split(", ")
        assert str(read) not in said.strip("[]\n").split(", ")
        said = subprocess.run([PYTHON, "-c", fds], stdout=PIPE, text=True, pass_fds=[read]).stdout
        assert str(read) in said.strip("[]\n").split(", ")
    finally:
        os.close(read)
        os.close(write)
    assert fcntl.fcntl(0, fcntl.F_GETFD) >= 0


def test_the_signal_mask_is_the_callers() -> None:
    """As with the standard module, unlike a managed process."""
    blocked = "import signal; print(signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        assert subprocess.run([PYTHON, "-c", blocked], stdout=PIPE).stdout == b"True\n"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert subprocess.run([PYTHON, "-c", blocked], stdout=PIPE).stdout == b"False\n"


# ---- the extra keywords ----


def test_the_extra_keywords_reach_the_child() -> None:
    """In run and Popen alike."""
    show = (
        "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], os.nice(0), "
        "len(os.sched_getaffinity(0)), open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])"
    )
    cpu = min(os.sched_getaffinity(0))
    options = {
        "limits": fastproc.Limits(open_files=99),
        "nice": 7,
        "cpu_affinity": [cpu],
        "no_new_privs": True,
    }
    assert subprocess.run([PYTHON, "-c", show], stdout=PIPE, text=True, **options).stdout == "99 7 1 1\n"
    assert subprocess.check_output([PYTHON, "-c", show], text=True, **options) == "99 7 1 1\n"
    with subprocess.Popen([PYTHON, "-c", show], stdout=PIPE, text=True, **options) as process:
        assert process.communicate()[0] == "99 7 1 1\n"


def test_bad_extras_are_refused_before_anything_is_started() -> None:
    """With the words of Command."""
    for options, error in (
        ({"nice": 99}, ValueError),
        ({"nice": "x"}, TypeError),
        ({"limits": 5}, TypeError),
        ({"grace": -1}, ValueError),
        ({"cpu_affinity": []}, ValueError),
    ):
        for function in (subprocess.run, subprocess.Popen, subprocess.call):
            with pytest.raises(error):
                function(["true"], **options)
    with pytest.raises(OSError, match="hard limit") as caught:
        subprocess.run(["true"], limits=fastproc.Limits(open_files=2**40), user=65534)
    assert isinstance(caught.value, fastproc.SpawnError)


def test_preexec_fn_goes_the_standard_way_and_is_warned_of_once() -> None:
    """With the true status all the same, where a child of fork(2) can have a pidfd."""
    program = (
        "import os, warnings\n"
        "from fastproc import subprocess\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        command = ['sh', '-c', 'umask; exit 7']\n"
        "        process = subprocess.Popen(command, preexec_fn=lambda: os.umask(0o77))\n"
        "        os.waitpid(process.pid, 0)\n"
        "        print(process.wait())\n"
        "print([str(each.category.__name__) for each in said if 'limits=' in str(each.message)])\n"
        "try:\n"
        "    subprocess.run(['true'], preexec_fn=int, nice=3)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([PYTHON, "-u", "-c", program], stdout=PIPE, text=True, check=True)
    lines = done.stdout.splitlines()
    status = "7" if fastproc.capabilities()["pidfd_info"] and opens_pidfds() else "None"
    assert lines[:5] == ["0077", status, "0077", status, "['RuntimeWarning']"]
    assert "nice" in lines[5]


def test_stop_ends_the_whole_tree() -> None:
    """The verb for one process: signal, wait, insist, reap."""
    if not fastproc.capabilities()["procfs"]:
        pytest.skip("without /proc who is not in a cgroup is not found")
    with subprocess.Popen("setsid sleep 1000 & echo $!; wait", shell=True, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stop(grace=5) == -signal.SIGTERM
        assert is_gone(pid)
        assert process.stop() == -signal.SIGTERM
