"""reap_orphans: what managed processes leave behind is reaped, and nobody else's child."""

from __future__ import annotations

import pytest
from tests.integration import fresh
from tests.programs import Programs
from tests.watch import can

# A subreaper stays one, and is one for the whole program: so each scenario has a program of its own.
_HELPERS = """
import logging, logging.handlers

class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())

log = Kept()
logging.getLogger("fastproc").addHandler(log)
logging.getLogger("fastproc").setLevel(logging.INFO)

def eventually(is_so, seconds=15):
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True

# Forks a child that lives for a moment and exits with 3; it becomes an orphan at once.
LEAVES = ["sh", "-c", "(sleep 0.1; exit 3) & exit 0"]
"""


@pytest.fixture(autouse=True)
def _proc() -> None:
    if not can("procfs"):
        pytest.skip("orphans are found by /proc")


@pytest.mark.parametrize("containment", ["session", "cgroup"])
def test_orphans_of_managed_processes_are_reaped_counted_and_logged(
    programs: Programs, containment: str
) -> None:
    """Each with its pid and status, once, though nobody has asked for anything."""
    if containment == "cgroup" and not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    out = fresh.run(
        _HELPERS
        + f"""
events = []
with ProcessManager(reap_orphans=True, containment={containment!r}, on_event=events.append) as manager:
    for number in range(5):
        assert manager.start_process(number, LEAVES, leftovers="keep").wait(20).ok
    assert eventually(lambda: manager.metrics().orphans_reaped == 5)
    assert children() == []
    assert eventually(lambda: manager.active_count() == 0)
orphans = [event for event in events if isinstance(event, fastproc.events.OrphanReaped)]
assert [event.status.code for event in orphans] == [3] * 5
assert len(set(event.pid for event in orphans)) == 5
lines = [line for line in log.messages if line.startswith("orphan reaped")]
assert sorted(lines) == sorted(f"orphan reaped: pid {{event.pid}}, code 3" for event in orphans)
assert manager.metrics().orphans_reaped == 5
print("well")
""".replace("import logging", "import fastproc.events, logging", 1),
        programs,
    )
    assert out == "well\n"


def test_children_that_other_code_has_started_are_never_touched(programs: Programs) -> None:
    """Zombies of subprocess wait for their own parent, in a session or not, while orphans are reaped."""
    out = fresh.run(
        _HELPERS
        + """
with ProcessManager(reap_orphans=True) as manager:
    others = []
    for number in range(10):
        others.append(subprocess.Popen(programs.exits_with(number + 10)))
        others.append(subprocess.Popen(programs.exits_with(number + 10), start_new_session=True))
        others.append(subprocess.Popen(programs.exits_with(number + 10), process_group=0))
        pid = os.fork()
        if pid == 0:
            os._exit(number + 10)
        others.append(pid)
    for number in range(5):
        manager.start_process(number, LEAVES, leftovers="keep").wait(20)
    # All of the others have ended long before the last orphan is reaped.
    assert eventually(lambda: manager.metrics().orphans_reaped == 5)
    time.sleep(0.5)
    codes = []
    for other in others:
        if isinstance(other, int):
            codes.append(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
        else:
            codes.append(other.wait(20))
    assert codes == [number + 10 for number in range(10) for _ in range(4)], codes
    assert manager.metrics().orphans_reaped == 5
print("well")
""",
        programs,
    )
    assert out == "well\n"


def test_orphans_of_children_of_others_are_left_alone(programs: Programs) -> None:
    """The subreaper becomes their parent too, but they are not ours: they stay for whoever owns them."""
    out = fresh.run(
        _HELPERS
        + """
with ProcessManager(reap_orphans=True) as manager:
    manager.start_process("first", programs.nop()).wait(20)
    subprocess.run(LEAVES, check=True)
    subprocess.run(LEAVES, check=True, start_new_session=True)
    for number in range(3):
        manager.start_process(number, LEAVES, leftovers="keep").wait(20)
    assert eventually(lambda: manager.metrics().orphans_reaped == 3)
    assert eventually(lambda: len(children()) == 2)
    codes = [os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in range(2)]
    print(codes, children(), manager.metrics().orphans_reaped)
""",
        programs,
    )
    assert out == "[3, 3] [] 3\n"


def test_a_double_fork_is_reaped_where_it_cannot_hide(programs: Programs) -> None:
    """A daemon in a session of its own is ours in a cgroup; its end is seen, and no zombie stays."""
    if not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    out = fresh.run(
        _HELPERS
        + """
with ProcessManager(reap_orphans=True, containment="cgroup", grace=0.2) as manager:
    process = manager.start_process("d", programs.daemonizes(), stdout=PIPE)
    daemon = int(first_line(process).split()[1])
    assert eventually(lambda: manager.metrics().orphans_reaped >= 1)
    assert eventually(lambda: children() == [])
    assert not os.path.exists(f"/proc/{daemon}")
    tree = manager.start_process("tree", programs.forks_a_tree(2, 2, setsid=True, leave=True), stdout=PIPE)
    tree.wait(20)
    assert eventually(lambda: manager.active_count() == 0)
    assert eventually(lambda: children() == [])
print("well")
""",
        programs,
    )
    assert out == "well\n"


def test_without_being_asked_the_program_adopts_nobody(programs: Programs) -> None:
    """It is no subreaper, so orphans go to whom they always went."""
    out = fresh.run(
        """
        import ctypes

        def is_subreaper():
            value = ctypes.c_int(-1)
            assert ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0) == 0
            return value.value

        with ProcessManager() as manager:
            manager.start_process("a", programs.leaves_a_child(), stdout=PIPE).wait(20)
            print(is_subreaper())
        with ProcessManager(reap_orphans=True) as manager:
            manager.start_process("a", programs.nop()).wait(20)
            print(is_subreaper())
        """,
        programs,
    )
    assert out.split() == ["0", "1"]


@pytest.mark.parametrize("containment", ["session", "cgroup"])
def test_each_of_two_managers_counts_its_own_orphans(programs: Programs, containment: str) -> None:
    """Also when the other one has been closed meanwhile, and those of a map()."""
    if containment == "cgroup" and not can("cgroup"):
        pytest.skip("no writable directory of cgroup v2")
    out = fresh.run(
        _HELPERS
        + """
options = {"reap_orphans": True, "containment": CONTAINMENT}
with ProcessManager(name="first", **options) as first:
    with ProcessManager(name="second", **options) as second:
        for number in range(3):
            first.start_process(number, LEAVES, leftovers="keep").wait(20)
        for number in range(2):
            second.start_process(number, LEAVES, leftovers="keep").wait(20)
        assert eventually(lambda: first.metrics().orphans_reaped + second.metrics().orphans_reaped == 5)
        assert eventually(lambda: children() == [])
        print(first.metrics().orphans_reaped, second.metrics().orphans_reaped)
    first.start_process("late", LEAVES, leftovers="keep").wait(20)
    assert eventually(lambda: children() == [])
    assert eventually(lambda: first.metrics().orphans_reaped == 4), first.metrics().orphans_reaped
    with ProcessManager(name="third", **options) as third:
        keeps = fastproc.Command(LEAVES, leftovers="keep")
        assert all(process.wait(20).ok for process in first.map([keeps] * 2))
        assert eventually(lambda: first.metrics().orphans_reaped == 6), first.metrics().orphans_reaped
        assert third.metrics().orphans_reaped == 0
print("well")
""".replace("CONTAINMENT", repr(containment)),
        programs,
    )
    assert out.splitlines() == ["3 2", "well"]
