"""A process that has imported everything once and forks for each command, so that a run costs a fraction of a second.

Reads one JSON object a line on stdin and answers with one: `{"start": job}` with the child's process number,
`{"wait": pid}` with its exit code (negative: the signal that ended it) or null while it runs. A job: `arguments` of the
command line, `folder` to run it in, `log` (stdout and stderr go to `log`.out and `log`.err) and perhaps a `fault`:

    kill: n                   SIGKILL itself before the n-th operation on the disk
    signal: [n, s, ...]       send itself the signals s before the n-th operation
    error: [n, errno, last]   operations n to `last` (null: all from n on) fail
    evaluation: [n, s]        send itself the signal s in the n-th evaluation
    file_size: bytes          the kernel lets no file grow beyond this
    trace: path               write down every operation
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy.ma
import torch
import torch._dynamo

from encoderkit import files
from encoderkit.cli import main as cli
from encoderkit.stages import finetune, pretrain
from encoderkit.training import run

IMPORTED = (numpy.ma, torch._dynamo, finetune, pretrain)
"""What a command imports when it needs it: imported here once, and not in each child."""


class Faults:
    """Counts the operations on the disk and makes the one that was chosen go wrong."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self.fault, self.count, self.evaluations, self.trace = fault, 0, 0, list[tuple[str, str]]()

    def operate(self, operation: str, path: Path) -> None:
        """Stands in for `files._operate`, which exists for this."""
        self.count += 1
        self.trace.append((operation, str(path)))
        if self.count == self.fault.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        number, *signals = self.fault.get("signal", [0])
        if self.count == number:
            for one in signals:
                os.kill(os.getpid(), one)
        first, errno, last = self.fault.get("error", [0, 0, 0])
        if first and first <= self.count and (last is None or self.count <= last):
            raise OSError(errno, os.strerror(errno))

    def install(self) -> None:
        """Put them in place."""
        files._operate = self.operate
        if "file_size" in self.fault:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.fault["file_size"],) * 2)
        number, chosen = self.fault.get("evaluation", [0, 0])
        evaluate = run.evaluate

        def interrupted(*arguments: Any, **options: Any) -> dict[str, float]:
            self.evaluations += 1
            if self.evaluations == number:
                os.kill(os.getpid(), chosen)
            return evaluate(*arguments, **options)

        run.evaluate = interrupted


def child(job: dict[str, Any]) -> None:
    """Run the command of a job in this process, and end it."""
    os.chdir(job["folder"])
    for number, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['log']}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faults = Faults(job.get("fault", {}))
    faults.install()
    sys.argv = ["encoderkit", *job["arguments"]]
    code = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        if "trace" in faults.fault:
            Path(faults.fault["trace"]).write_text(json.dumps(faults.trace), encoding="utf-8")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Serve until stdin ends."""
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            pid = os.fork()
            if pid == 0:
                child(order["start"])
            print(pid, flush=True)
        else:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            print(os.waitstatus_to_exitcode(status) if pid else "null", flush=True)


if __name__ == "__main__":
    main()
