"""Hosts that reap, ignore or starve by themselves: the status is the true one or none, and never invented."""

from __future__ import annotations

import pytest
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import can

# Without it, a status that somebody else has taken is lost; it must then be called unknown.
_WAYS = [
    pytest.param("", id="as-it-is"),
    pytest.param("pidfd_info", id="without-pidfd-info"),
]

# Whether one status is what it should be: the true one, or where that cannot be known, none at all.
_IS_TRUE = """
KNOWS = fastproc.capabilities()["pidfd_info"]

def is_true(status, code, signal=None):
    if (status.code, status.signal) == (code, signal):
        return True
    unknown = status.reason is ExitReason.UNKNOWN and status.returncode is None and not status.ok
    return unknown and (status.code, status.signal) == (None, None) and status.foreign and not KNOWS
"""

_SA_NOCLDWAIT = """
import ctypes, platform

def ignore():
    # struct sigaction of the C library: handler, mask, flags, restorer; SA_NOCLDWAIT is 2.
    class Action(ctypes.Structure):
        _fields_ = [
            ("handler", ctypes.c_void_p), ("mask", ctypes.c_ubyte * 128),
            ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p),
        ]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.sigaction(int(signal.SIGCHLD), ctypes.byref(Action(flags=2)), None) == 0

def is_ignored():
    # A child that nobody has waited for is gone at once.
    other = subprocess.Popen(programs.exits_with(3))
    try:
        os.waitpid(other.pid, 0)
    except ChildProcessError:
        other.returncode = 0
        return True
    return False
"""

_SIG_IGN = """
def ignore():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def is_ignored():
    return signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
"""


@pytest.mark.parametrize("disable", _WAYS)
@pytest.mark.parametrize(
    "how", [pytest.param(_SIG_IGN, id="SIG_IGN"), pytest.param(_SA_NOCLDWAIT, id="SA_NOCLDWAIT")]
)
def test_a_host_that_ignores_sigchld_gets_true_statuses_or_none(
    programs: Programs, how: str, disable: str
) -> None:
    """No status is invented, failed starts and stops work, and the disposition stays what it was."""
    out = fresh.run(
        _IS_TRUE
        + how
        + """
ignore()
with ProcessManager(grace=0.2) as manager:
    for number in range(10):
        assert is_true(manager.start_process(number, programs.exits_with(number)).wait(20), number)
    assert is_true(manager.start_process("9", programs.dies_by(9)).wait(20), None, 9)
    try:
        manager.start_process("missing", ["/no/such/program"])
    except fastproc.SpawnError as error:
        assert error.errno == errno.ENOENT
    stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
    first_line(stubborn)
    result = stubborn.terminate(0.1)
    assert result.stopped and result.survivors == []
    assert is_true(result.status, None, signal.SIGKILL) or result.status.reason is ExitReason.TERMINATED
    family = manager.start_process("family", programs.forks_a_tree(1, 2), stdout=PIPE)
    first_line(family)
    assert family.terminate().stopped
    many = manager.start_many((number, programs.exits_with(5)) for number in range(20))
    assert all(is_true(status, 5) for status in manager.wait_all(20))
    # Without pidfds it is a look later that nothing is left of them.
    until = time.monotonic() + 20
    while manager.active_count() and time.monotonic() < until:
        time.sleep(0.005)
    assert manager.active_count() == 0
    metrics = manager.metrics()
    print(metrics.status_unknown > 0, metrics.started)
assert is_ignored()
""",
        programs,
        disable=disable,
    )
    knows = can("pidfd_info") and not disable
    assert out.split() == [str(not knows), "33"]


@pytest.mark.parametrize("disable", _WAYS)
def test_a_thief_of_statuses_does_not_make_us_lie(programs: Programs, disable: str) -> None:
    """A thread reaps whatever ends, as fast as it can; some are stolen, and no answer is wrong."""
    out = fresh.run(
        _IS_TRUE
        + """
stolen = 0
enough = False
WALL = 0x40000000

def steal():
    global stolen
    while not enough:
        try:
            stolen += os.waitpid(-1, os.WNOHANG | WALL)[0] > 0
        except ChildProcessError:
            pass

thief = threading.Thread(target=steal)
thief.start()
sys.setswitchinterval(0.0002)
foreign = 0
with ProcessManager(grace=0.2) as manager:
    for number in range(150):
        process = manager.start_process(number, programs.exits_with(number % 256))
        if number % 3 == 0:
            time.sleep(0.002)  # leave it to the thief
        status = process.wait(20)
        assert is_true(status, number % 256), status
        assert process.wait() is status and process.poll() is status
        foreign += status.foreign
    many = manager.start_many((number, programs.exits_with(number)) for number in range(50))
    for process in many:
        assert is_true(process.wait(20), process.task_id)
        foreign += process.wait().foreign
    for number in range(5):
        tree = programs.forks_a_tree(1, 2, ignore=True)
        stubborn = manager.start_process(("stubborn", number), tree, stdout=PIPE)
        first_line(stubborn)
        assert stubborn.terminate(0.05).stopped
    assert manager.active_count() == 0
enough = True
thief.join()
print(foreign > 0, stolen > 0)
""",
        programs,
        disable=disable,
    )
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize(
    "disable",
    [
        pytest.param("pidfd,pidfd_signal,pidfd_wait,pidfd_group,pidfd_info", id="without-pidfds"),
        pytest.param("all", id="without-anything"),
    ],
)
def test_without_pidfds_the_same_story_is_told(programs: Programs, disable: str) -> None:
    """Codes, signals, deadlines, ladders, waits, callbacks and batches come out as they do with pidfds."""
    out = fresh.run(
        """
told = []
with ProcessManager(grace=0.2) as manager:
    for number in range(30):
        assert manager.start_process(number, programs.exits_with(number)).wait(20).code == number
    assert manager.start_process("9", programs.dies_by(9)).wait(20).signal == 9
    process = manager.start_process("called", programs.exits_with(4, after=0.1), on_exit=told.append)
    try:
        process.wait(0.01)
    except fastproc.WaitTimeout:
        pass
    assert process.wait(20).code == 4
    late = manager.start_process("late", programs.ready_then_sleep(), timeout=0.1, stdout=DEVNULL)
    assert late.wait(20).reason is ExitReason.TIMEOUT
    stubborn = manager.start_process("stubborn", programs.ignores_sigterm(), stdout=PIPE)
    first_line(stubborn)
    assert stubborn.send_signal(signal.SIGHUP) and stubborn.poll() is None
    result = stubborn.terminate(0.1)
    assert result.stopped and result.status.signal == signal.SIGKILL
    many = manager.start_many((number, programs.exits_with(6)) for number in range(40))
    codes = [status.code for status in manager.wait_all(20)]
    assert codes == [6] * 40, codes
    assert [process.wait().code for process in manager.map([programs.exits_with(8)] * 40)] == [8] * 40
    assert not fastproc.capabilities()["pidfd"]
assert [process.task_id for process in told] == ["called"]
assert children() == []
print("well")
""",
        programs,
        disable=disable,
    )
    assert out == "well\n"


def test_with_few_descriptors_allowed_the_limit_is_raised(programs: Programs) -> None:
    """A soft limit of 64 leaves room for 200 living children, each with a pidfd and two pipes."""
    out = fresh.run(
        """
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if hard != resource.RLIM_INFINITY and hard < 2000:
    print("skip")
    sys.exit()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
with ProcessManager() as manager:
    items = [(number, programs.ready_then_sleep()) for number in range(200)]
    from fastproc import Command
    results = manager.start_many([(name, Command(args, stdout=PIPE, stderr=PIPE)) for name, args in items])
    assert all(isinstance(result, fastproc.Process) for result in results), results[-1]
    assert all(first_line(process).startswith("ready") for process in results[:5])
    report = manager.terminate_all()
    assert report and len(report.results) == 200
print("well")
""",
        programs,
    )
    if out == "skip\n":
        pytest.skip("the hard limit of open files is below 2000")
    assert out == "well\n"


def test_without_descriptors_a_start_fails_and_the_others_live_on(programs: Programs) -> None:
    """At a hard limit of 100 a start is refused in a way that can be tried again; later it succeeds."""
    out = fresh.run(
        """
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
with ProcessManager(grace=1) as manager:
    living = []
    refused = []
    for number in range(100):
        try:
            living.append(manager.start_process(number, programs.ready_then_sleep(), stdout=PIPE))
        except fastproc.SpawnError as error:
            refused.append(error)
            if len(refused) == 5:
                break
    assert refused and living, (refused, living)
    assert all(error.retryable and error.errno in (errno.EMFILE, errno.ENFILE) for error in refused), refused
    assert manager.active_count() == len(living)
    assert manager.metrics().failed_to_start == len(refused)
    some = manager.start_many([("more", programs.nop()), ("still", programs.nop())])
    assert all(isinstance(one, (fastproc.SpawnError, fastproc.Process)) for one in some)
    assert all(process.poll() is None for process in living)
    assert first_line(living[-1]).startswith("ready")
    for process in living[:10]:
        assert process.terminate().stopped
    assert manager.start_process("again", programs.exits_with(3), stdout=PIPE).wait(20).code == 3
    assert manager.terminate_all()
    print(sorted({error.stage for error in refused}), len(living) > 10)
assert children() == []
""",
        programs,
    )
    assert out.split()[-1] == "True", out
