"""Kills small runs with SIGKILL at random moments, continues them, and compares them with runs that nobody disturbed.

    python -m tests.reliability.kill9 --kills 100 --seed 1

Pretraining and fine-tuning take turns. A run is killed one to three times (unless it comes to its end before), each time
begun by the same command line with --resume, and then left to itself. Two kills in three wait for a checkpoint to be in
the making (a .staging- directory) and then a random moment more; the others come at any time. A kill counts as one while
saving if it left a half-made checkpoint, a half-removed one or a half-written pointer behind. At its end a run must be
bitwise what the undisturbed one is: weights, moments, log, pointers and kept checkpoints. Exit code 1 if one is not, or
if less than a third of the kills came while saving.

The commands run in processes forked from one that has imported everything, since what is killed is not the import.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from encoderkit.console import table
from tests.reliability.small import STAGES, Server, assert_same, assert_whole, build, fresh, result, serving


class Tally(NamedTuple):
    """What has happened to the runs of a stage."""

    kills: int = 0
    saving: int = 0
    """Kills while saving."""
    runs: int = 0
    mismatches: int = 0


def staging(run: Path) -> bool:
    """Whether something half made, or half removed, is there."""
    with suppress(FileNotFoundError):
        return any(name.startswith((".staging-", ".trash-")) for name in os.listdir(run))
    return False


def strike(server: Server, stage: str, run: Path, rng: random.Random, duration: float) -> tuple[bool, bool]:
    """Begin or continue a run and kill it: whether it was hit before its end, and whether it was saving then."""
    patience = rng.uniform(0, duration)
    begun = time.monotonic()
    started = server.start(stage, f"{stage}.yaml", "--out", run.name, "--resume")
    if rng.random() < 2 / 3:
        while not staging(run) and time.monotonic() - begun < duration:
            pass
        patience = rng.uniform(0, 0.008)
        begun = time.monotonic()
    while time.monotonic() - begun < patience:
        pass
    os.kill(started[0], signal.SIGKILL)  # the server has not waited for it yet, so the number is still its own
    ended = server.wait(started)
    if ended.code not in (0, -signal.SIGKILL):
        sys.exit(f"{stage} ended with {ended.code}:\n{ended.err}")
    return ended.code != 0, staging(run)


def torment(server: Server, kills: int, seed: int) -> dict[str, Tally]:
    """Kill runs in turns, `kills` times in all."""
    rng, tallies = random.Random(seed), {stage: Tally() for stage in STAGES}
    references, durations = {}, {}
    for stage in STAGES:
        begun = time.monotonic()
        assert server.train(stage, f"undisturbed-{stage}").code == 0
        durations[stage], references[stage] = time.monotonic() - begun, result(server.folder / f"undisturbed-{stage}")
    while (done := sum(tally.kills for tally in tallies.values())) < kills:
        stage = min(STAGES, key=lambda name: tallies[name].runs)
        tally, run = tallies[stage], fresh(server.folder / f"killed-{stage}")
        for _ in range(min(rng.randint(1, 3), kills - done)):
            hit, saving = strike(server, stage, run, rng, durations[stage])
            if run.exists():
                assert_whole(run)
            tally = tally._replace(kills=tally.kills + hit, saving=tally.saving + (hit and saving))
            if not hit:
                break
        ended = server.train(stage, run.name)
        assert ended.code == 0, ended
        try:
            assert_same(run, references[stage])
        except AssertionError as error:
            print(error, file=sys.stderr)
            tally = tally._replace(mismatches=tally.mismatches + 1)
        tallies[stage] = tally._replace(runs=tally.runs + 1)
    return tallies


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, serving(build(Path(folder))) as server:
        tallies = torment(server, options.kills, options.seed)
    total = Tally(*map(sum, zip(*tallies.values(), strict=True)))
    rows = [(name, *map(str, tally)) for name, tally in [*tallies.items(), ("all", total)]]
    print(table([("stage", "kills", "while saving", "runs", "mismatches"), *rows]))
    print(f"{time.monotonic() - begun:.0f} s, seed {options.seed}")
    sys.exit(1 if total.mismatches or 3 * total.saving < total.kills else 0)


if __name__ == "__main__":
    main()
