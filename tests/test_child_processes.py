"""What tests start ends with them: the limits that other tests rely on."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest

from tests.child_processes import Child, run, time_limit

# Starts a process that holds the pipes, says who it is, and sleeps on, whatever becomes of the first one.
_LEAVES_ONE_BEHIND = """
import subprocess, sys
started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(started.pid, file=sys.stderr, flush=True)
"""


def _is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")


@pytest.mark.slow
@needs_proc
def test_what_it_leaves_behind_is_ended():
    with pytest.raises(AssertionError, match="it did not end in 1 seconds"):
        run([sys.executable, "-c", f"{_LEAVES_ONE_BEHIND}\nstarted.wait()"], seconds=1)
    with Child([sys.executable, "-c", f"{_LEAVES_ONE_BEHIND}\nstarted.wait()"]) as child:
        child.until("\n")
        pid = int(child.err)
        assert _is_there(pid)
    assert not _is_there(pid)


def test_a_line_that_never_comes_is_not_waited_for():
    with Child([sys.executable, "-c", "import sys; print('one', file=sys.stderr)"]) as child:
        child.until("on")
        with pytest.raises(AssertionError, match="it ended without {'two'}; it printed\none"):
            child.until("two")
        assert child.wait() == 0
    with (
        Child([sys.executable, "-c", "import time; time.sleep(600)"], seconds=0.1) as child,
        pytest.raises(AssertionError, match=r"not in 0.1 seconds: {'two'}"),
    ):
        child.until("two")


def test_more_than_a_pipe_holds_is_read():
    done = run(
        [sys.executable, "-c", "import sys; print('x' * 10**6); print('y' * 10**6, file=sys.stderr); sys.exit(3)"]
    )
    assert (done.returncode, len(done.stdout), len(done.stderr)) == (3, 10**6 + 1, 10**6 + 1)


def test_a_child_gets_the_given_environment():
    code = "import os; print(os.environ.get('BNKIT_A'), os.environ.get('PATH'))"
    done = run([sys.executable, "-c", code], environment={"BNKIT_A": "b", "PATH": None})
    assert done.stdout == "b None\n"


@needs_proc
def test_what_is_waited_for_in_this_process_is_ended():
    before = dict(os.environ)
    spawned = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    with pytest.raises(AssertionError, match="took longer than 0.5 seconds, and were killed"), time_limit(0.5):
        spawned.start()
        spawned.join(60)
        assert spawned.exitcode == -9
    assert dict(os.environ) == before
