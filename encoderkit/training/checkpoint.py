"""Checkpoints: a directory each, whole or not there, that holds all a model needs and all that resuming needs.

    step-0001000/
      model.safetensors  config.json  labels.json  tokenizer/      the model
      target_tokenizer/                                            where its decoder writes with another vocabulary
      resume/optimizer.safetensors  resume/state.json              only for resuming
      resume/weights.safetensors                                   where training has other weights than the model: of which an
                                                                   average is saved, or factors that are merged in it
      MANIFEST.json                                                sizes and SHA-256 of all of these

Moments are kept by parameter name, so that the order of parameters is of no account.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from encoderkit import __version__, files, world
from encoderkit.config import Config
from encoderkit.console import warn
from encoderkit.errors import DataError, DivergedError, UserError, refuse_pointer
from encoderkit.training.average import averaged, means, remembers
from encoderkit.training.lora import merged
from encoderkit.training.sharding import like, on_first, sharded

FORMAT = 1
"""Of config.json; raised when an older reader could not understand a checkpoint."""

TARGET = "target_tokenizer"
"""The folder of a model directory with the tokenizer of what is written, where that is another than of what is read."""


class Description(NamedTuple):
    """What a model directory holds beside the weights."""

    config: dict[str, Any]
    """config.json: enough to rebuild the model without the recipe."""
    labels: list[str] | None
    tokenizer: Mapping[str, bytes]
    """The files of the tokenizer's directory."""
    target: Mapping[str, bytes] | None = None
    """Those of the tokenizer that its decoder writes with, if it is another."""


class State(Config):
    """Where a run stands, between two updates."""

    update: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """Spent training, over all resumptions; evaluation and saving not included."""
    best_update: int | None = None
    best_value: float | None = None
    stale: int = 0
    """Evaluations since the best one."""
    due: bool = False
    """Whether the evaluation after this update was cut short, and comes first when the run goes on."""
    unlogged: int = 0
    """Updates since the last line of the log; the next line gives the mean of their losses."""
    unlogged_loss: float = 0.0
    """The sum of their losses."""

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / max(self.seconds, 1e-9)

    def speed_since(self, before: "State") -> float:
        """Tokens a second from an earlier state on: this process may be on another machine than the one that began."""
        return (self.tokens - before.tokens) / max(self.seconds - before.seconds, 1e-9)


def step_path(run: Path, update: int) -> Path:
    """The directory of a checkpoint."""
    return run / f"step-{update:07d}"


def _own(learner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a learner, under each of their names."""
    return chain(learner.named_parameters(remove_duplicate=False), learner.named_buffers(remove_duplicate=False))


def config_of(encoder: Config, vocabulary: Mapping[str, Any], **parts: Config) -> dict[str, Any]:
    """How a config.json begins; `parts`: the task or the objective."""
    made = {name: part.model_dump(mode="json") for name, part in {"encoder": encoder, **parts}.items()}
    return {"format": FORMAT, "encoderkit": __version__, **made, "vocabulary": vocabulary}


def write_model(folder: Path, weights: dict[str, Tensor], description: Description) -> None:
    """The files of a model, in a folder that is staged."""
    files.write_new(folder / "model.safetensors", safetensors.torch.save(weights))
    files.write_new(folder / "config.json", json.dumps(description.config, indent=1, ensure_ascii=False))
    if description.labels is not None:
        files.write_new(folder / "labels.json", json.dumps(description.labels, indent=1, ensure_ascii=False))
    for place, content in (("tokenizer", description.tokenizer), (TARGET, description.target)):
        if content is not None:
            files.make_folder(folder / place)
        for name, data in (content or {}).items():
            files.write_new(folder / place / name, data)


def save(
    run: Path, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: State, description: Description
) -> Path:
    """Commit a checkpoint, point `last` (and `best`) at it, and remove what is no longer needed.

    Called in every process, written by the first one: tensors are whole, however many processes hold their parts. The two
    newest checkpoints and the best one are kept. Raises `DivergedError` rather than keep a state that is not finite,
    `ResourceError` if the disk fails; earlier checkpoints are intact in either case.
    """
    target = step_path(run, state.update)
    if not (world.first() or sharded(learner)):
        return target
    own, averages = dict(learner.state_dict(keep_vars=True)), {id(p): mean for p, mean in means(optimizers)}
    trained = on_first(own)
    usable = trained | on_first({name: averages[id(t)] for name, t in own.items() if id(t) in averages})
    if averages and (made := own.keys() - {name for name, _ in _own(learner)}):  # of parameters, as a sum of two tables is
        with averaged(optimizers):
            usable |= on_first({name: t.detach().clone() for name, t in learner.state_dict().items() if name in made})
    moments = on_first(_moments(learner, optimizers))
    if not world.first():
        return target
    weights = merged(learner, usable)
    others = {name: t.detach().contiguous() for name, t in trained.items() if weights.get(name) is not t}
    weights = {name: t.detach().contiguous() for name, t in weights.items()}
    moments = {name: t.detach().cpu().contiguous() for name, t in moments.items()}
    for name, tensor in [*weights.items(), *others.items(), *moments.items()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} is no longer finite at update {state.update}; what was saved before is intact")
    again = target.exists()  # with an evaluation that was still due
    with files.staged(target, {"format": FORMAT, "update": state.update}, overwrite=again, step=True) as folder:
        write_model(folder, weights, description)
        files.make_folder(folder / "resume")
        files.write_new(folder / "resume" / "optimizer.safetensors", safetensors.torch.save(moments))
        if others:
            files.write_new(folder / "resume" / "weights.safetensors", safetensors.torch.save(others))
        files.write_new(folder / "resume" / "state.json", state.model_dump_json(indent=1))
    publish(run, state)
    return target


def publish(run: Path, state: State) -> None:
    """Point `last` and `best` at their checkpoints, and remove those that are no longer needed.

    The second half of a save, and done again when a run is continued: it may have been killed between the two.
    """
    files.replace(run / "last", step_path(run, state.update).name + "\n")
    if state.best_update is not None:
        files.replace(run / "best", step_path(run, state.best_update).name + "\n")
    _retain(run, state)


def _moments(learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    names = {id(p): name for name, p in learner.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value
        for optimizer in optimizers
        for p, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def _steps(run: Path) -> list[Path]:
    found = [p for p in run.iterdir() if re.fullmatch(r"step-\d{7,}", p.name) and p.is_dir()] if run.is_dir() else []
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def _retain(run: Path, state: State) -> None:
    best = None if state.best_update is None else step_path(run, state.best_update)
    for old in _steps(run)[2:]:
        if old != best:
            files.remove(old)


def set_aside(run: Path, state: State) -> None:
    """Rename checkpoints after `state`, which are damaged, so that none is taken for one of the two to be kept."""
    for step in _steps(run):
        if int(step.name[5:]) > state.update:
            files.move(step, run / f"damaged-{step.name}")


def newest(run: Path) -> tuple[Path, State] | None:
    """The newest checkpoint whose files are all as they were written; None if there never was one.

    A damaged one is passed over with a warning. Raises `DataError` if there are some and all are damaged: a run is never
    silently begun again.
    """
    steps = _steps(run)
    for step in steps:
        try:
            files.verify(step)
            return step, State.model_validate(files.read_json(step / "resume" / "state.json"))
        except UserError as error:
            warn(f"checkpoint passed over: {error}")
        except ValueError:
            warn(f"checkpoint passed over: {step / 'resume' / 'state.json'}: not a state of this version")
    if steps or (run / "last").exists():
        found = f"none of its {len(steps)} checkpoints can be used" if steps else "its checkpoints are gone"
        raise DataError(found, where=run, fix="begin again in another --out, or --overwrite")
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises `DataError` if it is not one."""
    try:
        data = path.read_bytes()
        refuse_pointer(data[:100], path)
        return safetensors.torch.load(data)
    except DataError:
        raise
    except (OSError, safetensors.SafetensorError, ValueError, KeyError) as error:
        fix = "copy it again from where it was made; a run has older steps beside it"
        raise DataError(f"not a readable safetensors file: {error}", where=path, fix=fix) from None


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Put `tensors` into `module`; raises `DataError` unless names and shapes are exactly those of the module."""
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise DataError(
            f"the weights do not fit this model: {_listed(missing)} missing, {_listed(unexpected)} unexpected",
            where=where,
            fix="the weights and the config.json of one model belong together",
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            fix = "the weights and the config.json of one model belong together"
            raise DataError(f"{name} has shape {tuple(tensor.shape)}, the model {tuple(own[name].shape)}", where=where, fix=fix)
    module.load_state_dict({name: like(tensor, own[name]) for name, tensor in tensors.items()})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"


def restore(step: Path, learner: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Weights and moments of a verified checkpoint."""
    tensors, other = read_tensors(step / "model.safetensors"), step / "resume" / "weights.safetensors"
    if other.exists():
        own = learner.state_dict().keys()
        tensors = {name: tensor for name, tensor in tensors.items() if name in own} | read_tensors(other)
    load_weights(learner, tensors, step)
    saved = read_tensors(step / "resume" / "optimizer.safetensors")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                keys = [key for key in saved if key.rpartition(".")[0] == name]
                keys = [key for key in keys if remembers(optimizer, key.rpartition(".")[2])]
                # Step counts stay where the optimizer's fused kernel wants them: beside the parameter, as float32.
                optimizer.state[p] = {key.rpartition(".")[2]: like(saved[key], p) for key in keys}
