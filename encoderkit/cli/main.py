"""The console script: every way a command can end becomes an exit code and, if it failed, one or two lines."""

import errno
import io
import os
import shlex
import signal
import sys
import time
import traceback
from typing import Annotated, Any

import typer

from encoderkit import __version__, world
from encoderkit.cli import doctor, inspect, look, make, use
from encoderkit.cli.app import app, drop_output
from encoderkit.console import tell
from encoderkit.errors import ExitCode, Interrupted, ResourceError, UsageError, UserError, gpu_is_full, out_of_memory, shown

COMMANDS = (make, use, look, inspect, doctor)
"""Importing them is what gives the application its commands, in the order of `--help`."""

Misuse: Any = typer.BadParameter.__base__
"""A flag or command that is not there, or not complete; typer's own class, from whichever click it brings."""

FEWER = {
    **dict.fromkeys(("predict", "embed", "evaluate", "bench"), "fewer texts at once: --batch 8"),
    "generate": "fewer texts at once: -n 1",
    "tokenize": "fewer processes at once: --workers 1",
    "train-tokenizer": "less text at once: a recipe with `sample: 20M` (encoderkit init tokenizer)",
}
"""What each command takes less memory with; elsewhere it is for the recipe."""


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    """Train your own text encoder: from raw text to a trained, evaluated, exported model.

    New here? `encoderkit demo` goes the whole way in two minutes, on text that this machine already has.
    """
    if show:
        print(f"encoderkit {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(int(ExitCode.USAGE))
    elif world.size() > 1 and context.invoked_subcommand not in ("pretrain", "finetune"):
        message = f"{context.invoked_subcommand} runs in one process; torchrun is for pretrain and finetune"
        raise UsageError(message, fix=f"encoderkit {context.invoked_subcommand} ...")


def _fail(error: UserError) -> int:
    if not world.first():  # of several processes the first speaks; they are ended before this one does, if it has the same to say
        time.sleep(3)
    tell(f"error: {error}")
    return int(error.exit_code)


def _system(error: OSError) -> int:
    """What the file system refused where nothing else could be said about it: a name too long, a folder not to be read."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    if error.filename is not None:
        kind = ResourceError if full else UsageError
        fix = "free some space" if full else "another path, or the right to read and write there"
        return _fail(kind(f"cannot be used: {error.strerror}", where=shown(os.fsdecode(error.filename)), fix=fix))
    if not full:
        return _bug(error)
    drop_output()
    return _fail(
        ResourceError(
            f"cannot write: {error.strerror}", where="standard output", fix="free some space, or send the output elsewhere"
        )
    )


def _say_interrupted() -> None:
    if world.first():
        tell("interrupted")


def _bug(error: BaseException) -> int:
    traceback.print_exception(error)
    tell(
        f"error: this is a bug in encoderkit {__version__} ({type(error).__name__}). Please report it with the lines above "
        f"and the command: {shlex.join(sys.argv)}"
    )
    return int(ExitCode.FAILED)


def run() -> int:
    """The command, with every way it can end turned into an exit code."""
    if sys.platform == "win32":  # files are locked and processes are followed as Linux and macOS have it
        return _fail(UsageError("Windows itself is not supported; WSL is", fix="wsl --install, and the same commands in there"))
    world.follow_parent()
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # here, where what the file system says to it can be told
        if code == ExitCode.INTERRUPTED:
            _say_interrupted()
        return code if isinstance(code, int) else int(ExitCode.DONE)
    except Misuse as error:
        help_of = error.ctx.command_path if error.ctx else "encoderkit"
        return _fail(UsageError(error.format_message(), fix=f"{help_of} --help"))
    except Interrupted as stop:
        words = [a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")]
        # The demo begins again, in two minutes; tune and compare go on by themselves.
        again = {"pretrain": ["--resume"], "finetune": ["--resume"], "demo": ["--overwrite"]}.get(words[0], [])
        command = shlex.join(["encoderkit", *words, *again]) if world.size() == 1 else "the same torchrun command with --resume"
        if world.first():
            tell(f"{stop.message}\n  to {'begin again' if words[0] == 'demo' else 'continue'}: {command}")
        return int(stop.exit_code)
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        _say_interrupted()
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        drop_output()
        return int(ExitCode.DONE)
    except OSError as error:
        return _system(error)
    except Exception as error:
        if out_of_memory(error):
            where = "the GPU" if gpu_is_full(error) else "this machine"
            fix = FEWER.get(sys.argv[1] if len(sys.argv) > 1 else "", "a smaller training.micro_batch, data.length or model")
            return _fail(ResourceError(f"{where} is out of memory", fix=fix))
        return _bug(error)


def main() -> None:
    """The console script."""
    for name in ("stdout", "stderr"):  # closed by the caller (`>&-`): what is said goes nowhere
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character gets its number, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    code = run()
    if code in (ExitCode.INTERRUPTED, ExitCode.PREEMPTED):  # one more Ctrl-C, while Python ends, ends it sooner and says nothing
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    sys.exit(code)
