"""What the next Processor makes of what a killed one has left: runs, locks, strangers, halves of moves."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually
from tests.processor.crashes import Scene, wait_until
from tests.programs import Programs

import fastproc
from fastproc.errors import TaskExists
from fastproc.processor import Processor
from fastproc.processor.core import Outcome
from fastproc.processor.disk import Disk
from fastproc.processor.store import Hold, Record
from fastproc.processor.store_dir import DirectoryStore
from fastproc.processor.task import Task, TaskState

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scene(quick_place: Path, programs: Programs) -> Iterator[Scene]:
    made = Scene(quick_place, programs)
    yield made
    made.end_all()


def pid_of(scene: Scene, name: str) -> int:
    """The process that runs a task, as it has said itself."""
    wait_until(lambda: any(run[:2] == ["start", name] for run in scene.journal()))
    return next(int(run[2]) for run in reversed(scene.journal()) if run[:2] == ["start", name])


def kill_while_it_runs(scene: Scene, args: list[str], **fields: Any) -> int:
    """A Processor is killed while it runs this as task `one`. The pid of the run."""

    def work(processor: Processor, _acknowledge: Callable[[str], None]) -> None:
        processor.submit(args, id="one", **fields)
        processor.run_until_empty(60)

    victim = scene.begin(work)
    victim.let_go()
    pid = pid_of(scene, "one")
    # The Processor writes down whom it has started just after.
    wait_until(lambda: '"started"' in (scene.queue / "attempts/one.jsonl").read_text())
    victim.kill()
    victim.bury()
    return pid


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def program(*args: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A stranger, in a session of its own, that is ready."""
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True, start_new_session=True, **options) as made:
        try:
            yield made
        finally:
            made.kill()


# ---- what still runs ----


@pytest.mark.parametrize("words", [(), ("child",), ("deaf",), ("deaf", "child"), ("closes",)])
def test_what_still_runs_is_ended_before_the_task_is_tried_again(
    scene: Scene, words: tuple[str, ...]
) -> None:
    """Also what ignores SIGTERM, has children, or has closed what it was born with, its lock among it."""
    pid = kill_while_it_runs(scene, scene.job("one", 60, 0, *words))

    with contextlib.closing(scene.processor(grace=0.3)) as processor:
        processor.process_queue()
        assert processor.is_task_running("one")
        wait_until(lambda: processor.process_queue() > 0)
        assert not is_alive(pid)
        assert eventually(lambda: [run[0] for run in scene.journal()] == ["start", "start"])
        processor.stop(unfinished="cancel")
    scene.check_promises()
    first = scene.attempts("one")[0]
    assert (first["outcome"], first["failures"]) == ("lost", 1)


class DyingDisk(Disk):
    """Ends its program when it is about to write down who has been started."""

    def write(self, fd: int, content: bytes) -> None:
        if b'"event":"started"' in content:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(fd, content)


@pytest.mark.parametrize("words", [(), ("child",), ("deaf", "child")])
def test_what_was_started_and_not_written_down_is_ended_all_the_same(
    scene: Scene, words: tuple[str, ...]
) -> None:
    """It has inherited the lock of its task: the kernel knows what nobody had the time to write."""

    def work(processor: Processor, _acknowledge: Callable[[str], None]) -> None:
        processor.submit(scene.job("one", 60, 0, *words), id="one")
        processor.process_queue()

    victim = scene.begin(work, disk=DyingDisk())
    victim.let_go()
    assert victim.bury() == -signal.SIGKILL
    pid = pid_of(scene, "one")
    with contextlib.closing(scene.processor(grace=0.3)) as processor:
        processor.process_queue()
        assert processor.is_task_running("one")
        wait_until(lambda: processor.process_queue() > 0)
        assert not is_alive(pid)
        assert eventually(lambda: [run[0] for run in scene.journal()] == ["start", "start"])
        processor.stop(unfinished="cancel")
    scene.check_promises()


def test_an_adopted_run_is_let_end_and_its_status_is_the_true_one(scene: Scene) -> None:
    """It does not notice that its Processor has died."""
    kill_while_it_runs(scene, scene.job("one", 0.5, 7), max_attempts=1)

    scene.recover(recovery="adopt")

    scene.check_promises()
    assert [run[0] for run in scene.journal()] == ["start", "end"]
    (record,) = scene.attempts("one")
    if fastproc.capabilities()["pidfd_info"]:
        assert (record["outcome"], record["exit"]["code"], record["exit"]["foreign"]) == ("failed", 7, True)
    else:
        assert record["outcome"] == "lost"
    assert scene.states() == {"one": ["failed"]}


def test_what_ended_while_nobody_looked_is_lost_and_tried_again(scene: Scene) -> None:
    """Nobody invents a status."""
    pid = kill_while_it_runs(scene, scene.job("one", 0.5))
    if not eventually(lambda: not Path(f"/proc/{pid}").exists()):
        pytest.skip("nobody reaps orphans here, so the status is still there")

    scene.recover(recovery="adopt")

    assert [record["outcome"] for record in scene.attempts("one")] == ["lost", "succeeded"]


# ---- strangers ----


def told_to_be(scene: Scene, **fields: object) -> None:
    """What the journal of task `one` says of whom it has started is something else."""
    path = scene.queue / "attempts/one.jsonl"
    notes = [json.loads(line) for line in path.read_text().splitlines()]
    for note in notes:
        if note["event"] == "started":
            note.update(fields)
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))


def end_the_run(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    # Better reaped, too; but not everywhere somebody reaps orphans.
    if not eventually(lambda: not Path(f"/proc/{pid}").exists()):
        wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("recovery", ["end", "adopt"])
def test_a_stranger_with_the_pid_of_a_run_is_not_touched(scene: Scene, recovery: str) -> None:
    """The number comes back to another process: by set_tid of clone3(2), as it does in time by chance."""
    pid = kill_while_it_runs(scene, scene.job("one", 60))
    end_the_run(pid)
    if not eventually(lambda: not Path(f"/proc/{pid}").exists()):
        pytest.skip("nobody reaps orphans here, so no pid comes back")
    told_to_be(scene)
    (scene.marks / "one.lock").unlink()

    with program(*scene.programs.reborn_as(pid)) as maker:
        assert maker.stdout is not None
        said = maker.stdout.readline().split()
        if said[0] == "refused":
            pytest.skip("set_tid is not allowed")
        replace_args(scene)
        scene.recover(recovery=recovery)
        assert is_alive(pid), "the stranger was ended"
        os.kill(pid, signal.SIGKILL)
    assert [record["outcome"] for record in scene.attempts("one")] == ["lost", "succeeded"]


def replace_args(scene: Scene) -> None:
    """The task will end soon when it is tried again: its file is edited in place, as people do."""
    path = scene.queue / "in-progress/one.json"
    fields = json.loads(path.read_text())
    fields["args"] = scene.job("one", 0)
    path.write_text(json.dumps(fields))


def test_a_session_that_has_only_the_number_of_ours_is_not_touched(scene: Scene) -> None:
    """Its leader is gone as ours is, so nothing but the lock could tell whose members these are."""
    end_the_run(kill_while_it_runs(scene, scene.job("one", 60)))
    replace_args(scene)
    with program(*scene.programs.leaves_a_child()) as leader:
        assert leader.stdout is not None
        member = int(leader.stdout.readline().split()[1])
        leader.wait()
        told_to_be(scene, pid=leader.pid, session=leader.pid, cgroup=None)
        scene.recover()
        assert is_alive(member), "a stranger was ended"
        os.kill(member, signal.SIGKILL)
    scene.check_promises()


def test_after_a_reboot_nobody_is_taken_for_a_run(scene: Scene) -> None:
    """Pid and start time may be the same by chance: the boot is another one."""
    end_the_run(kill_while_it_runs(scene, scene.job("one", 60)))
    replace_args(scene)
    with program(*scene.programs.ready_then_sleep()) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        start = int(Path(f"/proc/{stranger.pid}/stat").read_text().rpartition(")")[2].split()[19])
        alike = {"pid": stranger.pid, "session": stranger.pid, "start": start, "cgroup": None}
        fd = os.pidfd_open(stranger.pid)
        alike["pidfs_inode"] = os.fstat(fd).st_ino
        os.close(fd)
        told_to_be(scene, boot="00000000-0000-0000-0000-000000000000", **alike)
        scene.recover()
        assert stranger.poll() is None, "a stranger was ended"
    assert scene.states() == {"one": ["completed"]}


def test_a_stranger_who_locks_a_task_is_waited_for_and_not_touched(scene: Scene) -> None:
    """A lock says that something of a run may live; whose it is says who has taken it."""
    end_the_run(kill_while_it_runs(scene, scene.job("one", 60)))
    replace_args(scene)
    hold = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print('ready', flush=True); input()"
    path = str(scene.queue / "in-progress/one.json")
    with (
        contextlib.closing(scene.processor()) as processor,
        program(sys.executable, "-c", hold, path, stdin=subprocess.PIPE) as stranger,
    ):
        assert stranger.stdout is not None
        assert stranger.stdin is not None
        assert stranger.stdout.readline() == "ready\n"
        assert not processor.run_until_empty(0.5).empty
        assert stranger.poll() is None, "a stranger was ended"
        stranger.stdin.close()
        assert processor.run_until_empty(20).empty
    assert scene.states() == {"one": ["completed"]}


def test_who_cancels_from_outside_is_not_taken_for_a_run(scene: Scene) -> None:
    """It claims the task for a moment, and a Processor starts just then."""
    with contextlib.closing(scene.processor()) as processor:
        processor.submit(scene.job("one"), id="one")
    release_read, release_write = os.pipe()

    def cancel(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        os.setsid()
        file = processor._store.file

        def slowly(filings: Any) -> Any:
            acknowledge("claimed one")
            os.read(release_read, 1)
            return file(filings)

        processor._store.file = slowly  # type: ignore[method-assign]
        processor.cancel("one")

    canceller = scene.begin(cancel)
    canceller.let_go()
    assert canceller.hear() == "claimed one"
    scene.acks.clear()
    with contextlib.closing(scene.processor()) as processor:
        for _ in range(3):
            processor.process_queue()
        assert not processor.is_task_running("one")
        assert scene.journal() == []
        os.write(release_write, b"x")
        assert canceller.bury() == 0, "it was ended"
    os.close(release_read)
    os.close(release_write)
    assert scene.states() == {"one": ["failed"]}
    assert [record["outcome"] for record in scene.attempts("one")] == ["cancelled"]


# ---- forked copies of the program ----


def test_a_forked_copy_does_not_keep_the_queue_locked(scene: Scene) -> None:
    """It lives on when the Processor is killed, as a worker of multiprocessing may."""
    sleeper_read, sleeper_write = os.pipe()

    def work(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        processor.submit(scene.job("one", 60), id="one")
        processor.process_queue()
        pid_of(scene, "one")
        if os.fork() == 0:
            acknowledge(f"forked {os.getpid()}")
            os.read(sleeper_read, 1)
            os._exit(0)
        processor.run_until_empty(60)

    victim = scene.begin(work)
    victim.let_go()
    said = victim.hear()
    assert said is not None
    copy = int(said.split()[1])
    scene.acks.clear()
    victim.kill()
    _pid, victim.status = os.waitpid(victim.pid, 0)
    try:
        with contextlib.closing(scene.processor()) as processor:
            processor.process_queue()
            processor.stop(unfinished="cancel")
        assert is_alive(copy), "the copy was ended"
    finally:
        os.write(sleeper_write, b"x")
        for fd in (sleeper_read, sleeper_write, victim.go_fd, victim.ack_fd):
            os.close(fd)
    assert [run[0] for run in scene.journal()] == ["start"]


def test_a_forked_copy_that_exits_stops_nothing_of_the_original(scene: Scene) -> None:
    """Its exit runs what was registered with atexit, the Processor's stop() among it."""
    script = scene.place / "host.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys, warnings
            from fastproc.processor import Processor
            # CPython 3.12 and later warn of a fork beside threads, which is what this is about.
            warnings.simplefilter("ignore", DeprecationWarning)
            with Processor(sys.argv[1], slots=1) as processor:
                processor.submit(sys.argv[2:], id="one")
                processor.start()
                while not processor.is_task_running("one"):
                    os.sched_yield()
                copy = os.fork()
                if copy == 0:
                    sys.exit(0)
                os.waitpid(copy, 0)
                assert processor.is_task_running("one")
                assert processor.queue_status().in_progress == 1
                assert len(os.listdir(sys.argv[1] + "/.processors")) == 1
                open(sys.argv[-1], "w").close()
                processor.run_until_empty(30)
                assert processor.result("one").attempts == 1
            """
        )
    )
    fifo = scene.place / "fifo"
    os.mkfifo(fifo)
    done = subprocess.run(
        [sys.executable, str(script), str(scene.queue), "cat", str(fifo)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert scene.states() == {"one": ["completed"]}


def test_a_forked_copy_may_share_the_queue_as_anybody_may(scene: Scene) -> None:
    """It is another program, with a name of its own."""
    with contextlib.closing(scene.processor(shared=True, slots=1)) as processor:
        processor.process_queue()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                processor.submit(scene.job("one"), id="one")
                code = 0 if processor.run_until_empty(20).completed == ("one",) else 2
                processor.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(os.listdir(scene.queue / ".processors")) == 1
    assert scene.states() == {"one": ["completed"]}


# ---- what was half done ----


def test_what_is_known_is_filed_although_something_of_it_holds_the_lock(scene: Scene) -> None:
    """The outcome was durable, only the move was missing, and a daemon has left with the lock."""
    store = DirectoryStore(scene.queue)
    store.submit([Task.read("one", {"id": "one", "args": scene.job("one")})])
    ticket = store.look("one.json")
    assert ticket is not None
    (hold,) = store.claim([ticket])
    assert isinstance(hold, Hold)
    assert hold.lock_fd is not None
    record = Record(id="one", attempt=1, state=TaskState.COMPLETED, outcome=Outcome.SUCCEEDED, failures=0)
    store.records.keep([(hold, record)])
    with program(*scene.programs.ready_then_sleep(), pass_fds=[hold.lock_fd]) as daemon:
        store.release(hold)
        store.close()
        scene.recover()
        assert daemon.poll() is None
    assert scene.states() == {"one": ["completed"]}
    assert scene.journal() == []


class TwoSteps(Disk):
    """A file system without RENAME_NOREPLACE and without O_TMPFILE; dies between the two steps of a move."""

    def __init__(self, die_at: int = 0) -> None:
        super().__init__()
        self._nameless = self._noreplace = False
        self.die_at = die_at
        self.moves = 0

    def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        if self.moves + 1 == self.die_at:
            os.link(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd, follow_symlinks=False)
            os.kill(os.getpid(), signal.SIGKILL)
        super().rename_new(name, dir_fd, new_name, new_dir_fd)
        # Late news of a file that has moved on since are no move: nothing is there to be cut.
        self.moves += 1


def test_a_move_of_two_steps_may_be_cut_in_half_anywhere(quick_place: Path, programs: Programs) -> None:
    """Where the file system cannot do it in one, no task is lost, doubled or taken for somebody's trick."""

    def work(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        processor.submit(scene.job("good"), id="good")
        acknowledge("submitted good")
        processor.submit(scene.job("bad", 0, 7), id="bad", max_attempts=2)
        acknowledge("submitted bad")
        processor.run_until_empty(20)
        processor.close()

    for n in range(1, 30):
        scene = Scene(quick_place / str(n), programs)
        victim = scene.begin(work, disk=TwoSteps(n))
        victim.let_go()
        if victim.bury() == 0:
            break
        scene.recover(disk=TwoSteps())
        scene.check_finished({"good": 0, "bad": 7})
    # Two submitted, three claimed, three results, one given back, two put to rest.
    assert n > 11


class Watched(Disk):
    """Writes down what is synced and renamed, and fails once."""

    def __init__(self, fail_at: str) -> None:
        super().__init__()
        self.fail_at = fail_at
        self.calls: list[str] = []

    def sync(self, fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        if name == self.fail_at:
            self.fail_at = ""
            self.calls.append(f"failed {name}")
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.calls.append(f"synced {name}")
        super().sync(fd)

    def rename_new(self, name: str, dir_fd: int, new_name: str, new_dir_fd: int) -> None:
        super().rename_new(name, dir_fd, new_name, new_dir_fd)
        self.calls.append(f"moved {Path(os.readlink(f'/proc/self/fd/{new_dir_fd}')).name}")


def test_a_sync_that_has_failed_is_not_believed(scene: Scene) -> None:
    """No task is completed before what came of it is on the disk."""
    disk = Watched("results")
    with contextlib.closing(scene.processor(disk=disk)) as processor:
        processor.submit(scene.job("one"), id="one")
        assert processor.run_until_empty(20).completed == ("one",)

    after = disk.calls[disk.calls.index("failed results") :]
    assert "synced results" in after[: after.index("moved completed")]
    scene.check_finished({"one": 0})


# ---- submitting ----


@pytest.mark.parametrize("durability", ["full", "batch", "none"])
def test_of_many_that_are_submitted_all_are_queued_or_none(scene: Scene, durability: str) -> None:
    scene.durability = durability
    with contextlib.closing(scene.processor()) as processor:
        processor.submit(["true"], id="taken")
        with pytest.raises(TaskExists):
            processor.submit_many([{"id": name, "args": ["true"]} for name in ("a", "b", "taken", "c")])
        with pytest.raises(TaskExists):
            processor.submit_many([{"id": name, "args": ["true"]} for name in ("a", "b", "a")])
    assert scene.states() == {"taken": ["pending"]}


def test_more_may_be_submitted_than_files_be_open(scene: Scene) -> None:
    import resource

    def work(processor: Processor, acknowledge: Callable[[str], None]) -> None:
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        processor.submit_many({"id": f"task-{n}", "args": ["true"]} for n in range(2000))
        acknowledge("submitted task-1999")

    scene.durability = "none"
    victim = scene.begin(work)
    victim.let_go()
    assert victim.bury() == 0
    assert len(list((scene.queue / "pending").iterdir())) == 2000


# ---- several Processors ----


def test_whoever_becomes_a_processor_is_seen_to_live(quick_place: Path) -> None:
    """However many others look and sweep meanwhile: one that seems dead is robbed of its tasks."""
    watcher = DirectoryStore(quick_place, durability="none")
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            watcher.presence.sweep()
            watcher.presence.has_processor()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(300):
            store = DirectoryStore(quick_place, durability="none")
            store.lock(shared=True)
            other = DirectoryStore(quick_place, durability="none")
            assert other.presence.is_alive(store.instance)
            store.close()
            other.close()
    finally:
        over.set()
        for thread in threads:
            thread.join()
        watcher.close()


def test_a_name_that_was_made_anew_is_not_swept_away(quick_place: Path) -> None:
    """Two sweep at once: the second has opened what the first has removed and a Processor has made again."""
    owner = DirectoryStore(quick_place, durability="none")

    class Slow(Disk):
        def open_file(self, name: str, dir_fd: int, *more: Any, **others: Any) -> int:
            fd = super().open_file(name, dir_fd, *more, **others)
            if name == owner.instance:
                os.unlink(name, dir_fd=dir_fd)
                owner.lock(shared=True)
            return fd

    watcher = DirectoryStore(quick_place, durability="none", disk=Slow())
    (quick_place / ".processors" / owner.instance).touch()
    watcher.presence.sweep()
    other = DirectoryStore(quick_place, durability="none")
    assert other.presence.is_alive(owner.instance)
    for store in (owner, watcher, other):
        store.close()


def test_a_task_file_that_an_editor_has_replaced_is_not_run_twice(scene: Scene) -> None:
    """The new file is not locked; but whose task it is lives."""
    with contextlib.closing(scene.processor(shared=True)) as one:
        one.submit(scene.job("one", 0.5), id="one")
        one.process_queue()
        pid_of(scene, "one")
        path = scene.queue / "in-progress/one.json"
        draft = path.with_name(".draft")
        draft.write_text(path.read_text())
        draft.rename(path)
        with contextlib.closing(scene.processor(shared=True)) as other:
            for _ in range(3):
                other.process_queue()
                other._shift._look_at = 0.0  # type: ignore[union-attr]
            assert not other.is_task_running("one")
            assert one.run_until_empty(20).completed == ("one",)
    assert [run[0] for run in scene.journal()] == ["start", "end"]
    scene.check_finished({"one": 0})


def test_the_lock_of_a_killed_processor_is_free_although_its_job_lives(scene: Scene) -> None:
    pid = kill_while_it_runs(scene, scene.job("one", 60))
    assert is_alive(pid)
    with contextlib.closing(scene.processor(recovery="adopt")) as processor:
        processor.process_queue()
        assert processor.is_task_running("one")
        processor.stop(unfinished="cancel")
    assert not is_alive(pid)
    with open(scene.queue / "failed/one.json") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
