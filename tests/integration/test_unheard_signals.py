"""Signals whose handlers have set their flag but have interrupted no call: the main thread hears of them."""

from __future__ import annotations

import pytest
from tests.integration import fresh
from tests.programs import Programs

# The handler runs in another thread, so nothing wakes the main thread from its sleep. It is the same with a
# signal that comes right before the sleep.
_UNHEARD = """
import fastproc.subprocess as dropin

sleeper = programs.ready_then_sleep()

def interrupt():
    time.sleep(0.3)
    signal.raise_signal(signal.SIGINT)

def heard(call):
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        thread.join()
    return False

def popen(call, **pipes):
    child = dropin.Popen(sleeper, **pipes)
    try:
        call(child)
    finally:
        child.kill()
        child.communicate()

manager = ProcessManager(grace=0.2)
process = manager.start_process("sleeper", sleeper, stdout=PIPE)
first_line(process)
"""

_CALLS = {
    "Process.wait": "process.wait()",
    "Process.wait-with-a-time-out": "process.wait(600)",
    "Process.lines": "list(process.lines())",
    "manager.wait": "manager.wait('sleeper')",
    "manager.wait_all": "manager.wait_all()",
    "as_completed": "next(manager.as_completed())",
    "map": "next(manager.map([fastproc.Command(sleeper, stdout=DEVNULL)]))",
    "run": "dropin.run(sleeper, stdout=DEVNULL)",
    "run-with-a-time-out": "dropin.run(sleeper, stdout=DEVNULL, timeout=600)",
    "run-captured": "dropin.run(sleeper, capture_output=True)",
    "run-captured-with-input": "dropin.run(sleeper, capture_output=True, input=b'x')",
    "check_output": "dropin.check_output(sleeper)",
    "Popen.wait": "popen(lambda child: child.wait(), stdout=DEVNULL)",
    "Popen.wait-with-a-time-out": "popen(lambda child: child.wait(600), stdout=DEVNULL)",
    "communicate": "popen(lambda child: child.communicate(), stdout=PIPE, stderr=PIPE)",
    "communicate-of-one-stream": "popen(lambda child: child.communicate(), stdout=PIPE)",
    "communicate-with-a-time-out": "popen(lambda child: child.communicate(timeout=600), stdout=PIPE)",
}


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
def test_a_signal_that_wakes_nobody_is_heard_all_the_same(programs: Programs, call: str) -> None:
    """In a second or so, not with the end of the child, which never comes."""
    source = (
        f"{_UNHEARD}\nprint(heard(lambda: {call}))\nprint(bool(manager.terminate_all(2)))\nmanager.close()\n"
    )

    assert fresh.run(source, programs, seconds=30) == "True\nTrue\n"
    programs.end_all()


def test_a_clock_is_kept_while_another_thread_holds_the_interpreter(programs: Programs) -> None:
    """To look for signals takes the lock of the interpreter, and nobody else stops this child in time."""
    watch = """
import pathlib, sys, time
from tests.watch import is_alive

file = pathlib.Path(sys.argv[1])
while not (pid := file.exists() and file.read_text().strip()):
    time.sleep(0.01)
while is_alive(int(pid)):
    time.sleep(0.01)
print(time.monotonic())
"""
    out = fresh.run(
        f"""
        import fastproc.subprocess as dropin
        from tests.watch import hold_the_lock

        file = os.path.join(programs.directory, "pid")
        command = [sys.executable, "-c", {watch!r}, file]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
            holder = threading.Timer(0.4, hold_the_lock, (2.5,))
            began = time.monotonic()
            holder.start()
            try:
                dropin.run(["sh", "-c", 'echo $$ > "$0"; exec sleep 100', file], timeout=1)
            except dropin.TimeoutExpired:
                held_until = time.monotonic()
            holder.join()
            print(float(watcher.stdout.read()) - began, held_until - began)
        """,
        programs,
    )
    ended, heard = map(float, out.split())
    assert 1 <= ended < 2 < heard
