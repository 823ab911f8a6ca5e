"""Several processes under one parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

WORKER = "import time; from encoderkit import world; world.follow_parent(); print('here', flush=True); time.sleep(60)"
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent is gone")
@pytest.mark.parametrize("launched", [True, False])
def test_the_processes_of_a_launcher_that_was_killed_end(launched: bool) -> None:
    environment = {**os.environ, **({"TORCHELASTIC_RUN_ID": "x"} if launched else {})}
    command = [sys.executable, "-c", PARENT, WORKER]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True)
    assert parent.stdout is not None and parent.stdout.readline() == b"here\n"
    parent.kill()
    parent.wait()
    try:  # the pipe is closed when the worker has ended too
        os.set_blocking(parent.stdout.fileno(), False)
        deadline = time.monotonic() + (20 if launched else 0.5)
        while (left := parent.stdout.read()) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (left == b"") == launched
    finally:
        parent.stdout.close()
        if not launched:
            os.killpg(parent.pid, signal.SIGKILL)
