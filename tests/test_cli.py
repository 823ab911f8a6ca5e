"""Every way a command can end, as a script sees it: exit code, stdout, stderr."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from encoderkit import files
from encoderkit.cli import main as cli
from encoderkit.errors import CheckError, UsageError, out_of_memory
from encoderkit.preflight import find_step
from encoderkit.stages import gate
from encoderkit.stages.show import RECIPES

PRETRAIN = """\
tokenizer: {tokenizer}
data: {{train: {store}, dev: 10%, length: 32}}
model: {{kind: bert, dim: 32, layers: 1, heads: 2}}
training: {{updates: 4, batch: 8, precision: fp32, compile: "off"}}
"""
FINETUNE = """\
tokenizer: {tokenizer}
model: {{kind: bert, dim: 32, layers: 1, heads: 2}}
data: {{train: {train}, dev: {dev}, length: 32}}
training: {{updates: 4, batch: 8, precision: fp32, compile: "off"}}
"""


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def encoderkit(*arguments: str | Path) -> Done:
    """Run the command; in this process, for a new one imports torch every time."""
    out, talk = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
        patch.setattr(sys, "argv", ["encoderkit", *map(str, arguments)])
        code = cli.run()
    return Done(code, out.getvalue(), talk.getvalue())


def fails(code: int, message: str, *arguments: str | Path) -> None:
    """The command ends with `code`, one error of one or two lines that holds `message`, and no traceback."""
    done = encoderkit(*arguments)
    assert done.returncode == code, done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert message in error and error.count("\n") <= 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def pretraining(tmp_path: Path, tokenizer_dir: Path, store_dir: Path) -> Path:
    """A recipe that runs in a second."""
    return write(tmp_path / "pretrain.yaml", PRETRAIN.format(tokenizer=tokenizer_dir, store=store_dir))


@pytest.fixture
def finetuning(tmp_path: Path, tokenizer_dir: Path, labelled: dict[str, Path]) -> Path:
    """A recipe that runs in a second."""
    return write(tmp_path / "finetune.yaml", FINETUNE.format(tokenizer=tokenizer_dir, **labelled))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "No such command 'nope'"),
        (["pretrian", "x"], "pretrain"),
        (["pretrain"], "Missing"),
        (["pretrain", "x.yaml"], "--out"),
        (["pretrain", "x.yaml", "--out", "o", "--overwirte"], "--overwirte"),
        (["pretrain", "x.yaml", "--out", "o"], "x.yaml: cannot read the recipe: there is no such file"),
        (["finetune", "x.yaml", "--out", "o"], "x.yaml: cannot read the recipe: there is no such file"),
        (["show"], "show takes a recipe, or --fields"),
        (["show", "--fields", "nothing"], "pretrain, finetune, tokenizer, corpus"),
        (["show", "x.yaml"], "there is no such file"),
        (["schema", "nothing"], "pretrain, finetune, tokenizer, corpus"),
        (["init", "nothing"], "pretrain"),
        (["init", "pretrain", "--kind", "nothing"], "bert-mini"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    fails(2, message, *arguments)


@pytest.mark.parametrize(("arguments", "code", "text"), [([], 2, "Make:"), (["--version"], 0, "encoderkit "), (["show"], 2, "")])
def test_the_code_is_that_of_the_process(arguments: list[str], code: int, text: str) -> None:
    done = subprocess.run([sys.executable, "-m", "encoderkit", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == code and text in done.stdout


def test_every_command_has_help_and_a_group() -> None:
    overview = encoderkit("--help").stdout
    commands = [line.split()[0] for line in overview.split("\n") if line.startswith("  ") and not line.startswith("   ")]
    for command in ("pretrain", "finetune", "show", "schema", "init", "demo"):
        assert command in commands
        assert encoderkit(command, "--help").returncode == 0


def test_preflight_errors(
    tmp_path: Path, pretraining: Path, finetuning: Path, tokenizer_dir: Path, labelled: dict[str, Path]
) -> None:
    out = tmp_path / "run"

    def pretrain(message: str, *settings: str) -> None:
        fails(2, message, "pretrain", pretraining, "--out", out, *(part for setting in settings for part in ("--set", setting)))

    def finetune(message: str, *settings: str) -> None:
        fails(2, message, "finetune", finetuning, "--out", out, *(part for setting in settings for part in ("--set", setting)))

    pretrain("expected a tokenizer directory, but there is nothing here", "tokenizer=nowhere")
    pretrain("expected a token store, but this is a file", f"data.train={labelled['train']}")
    pretrain("this is not a token store", f"data.train={tokenizer_dir}")
    finetune("there is no such file", "data.train=nowhere.jsonl")
    (tmp_path / "link.jsonl").symlink_to("gone.jsonl")
    finetune("is a link to gone.jsonl, which is not there", f"data.train={tmp_path / 'link.jsonl'}")
    finetune("expected a file of rows, but this is a directory", f"data.train={tokenizer_dir}")
    finetune("give either checkpoint", "checkpoint=somewhere")
    finetune(
        "expected a run or a model directory, but it was written by train-tokenizer",
        f"checkpoint={tokenizer_dir}", "model=null", "tokenizer=null",
    )  # fmt: skip
    assert not out.exists()


def test_what_is_read_is_not_overwritten(
    tmp_path: Path, corpus: Path, pretraining: Path, tokenizer_dir: Path, store_dir: Path
) -> None:
    text, read = ["--data", corpus, "--overwrite"], "would be replaced, and this command reads"
    fails(2, "is a file, and a directory is written here", "train-tokenizer", *text, "--out", corpus)
    twice = ("--kind", "char", "--set", "kind=word")
    fails(2, "kind=word says what another flag says too", "train-tokenizer", *text, "--out", tmp_path / "t", *twice)
    fails(2, read, "tokenize", "--tokenizer", tokenizer_dir, *text, "--out", tokenizer_dir)
    fails(2, read, "pretrain", pretraining, "--out", store_dir, "--overwrite")
    fails(2, "only what encoderkit wrote is replaced", "pretrain", pretraining, "--out", tmp_path, "--overwrite")
    fails(2, "only what encoderkit wrote is replaced", "tokenize", "--tokenizer", tokenizer_dir, *text, "--out", tmp_path)
    assert pretraining.is_file() and corpus.is_file()


def test_files_to_write_are_checked_first(
    tmp_path: Path, classifier_dir: Path, labelled: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, before = labelled["dev"], labelled["dev"].read_bytes()
    for flag, command in (
        ("--errors", ["evaluate", classifier_dir, "--data", rows, "--overwrite"]),
        ("--out", ["predict", classifier_dir, rows, "--overwrite"]),
        ("--out", ["embed", classifier_dir, rows, "--overwrite"]),
    ):
        fails(2, f"would be replaced, and this command reads {rows}\n  fix: another {flag}", *command, flag, rows)
        fails(2, f"this is a directory\n  fix: {flag} {tmp_path / 'NAME'}", *command, flag, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda path, *_, **__: Path(path) != tmp_path)
            fails(5, f"{tmp_path}: cannot be written to", *command, flag, tmp_path / "new" / "x.npy")
    assert rows.read_bytes() == before


def test_a_file_in_place_of_a_model(classifier_dir: Path, corpus: Path) -> None:
    step = find_step(classifier_dir)
    fails(2, f"this is a file of one\n  fix: the directory that holds it: {step}", "bench", step / "config.json")
    fails(2, "this is a file\n  fix: the directory that pretrain wrote", "bench", corpus)


def test_what_the_system_refuses_is_no_bug(tmp_path: Path, pretrained_dir: Path) -> None:
    fails(2, "File name too long", "predict", pretrained_dir, tmp_path / ("a" * 300))
    run = tmp_path / "run"
    shutil.copytree(pretrained_dir, run)
    for content in (b"step-0000999\n", b"\xff"):
        (run / "best").write_bytes(content)
        fails(3, "there is no model of this name; the run is damaged", "predict", run, "--text", "the [MASK]")


def test_parts_that_do_not_belong_together(tmp_path: Path, pretraining: Path, finetuning: Path, pretrained_dir: Path) -> None:
    """A tokenizer that is not the model's, tokens of another tokenizer, and texts longer than the positions of a checkpoint."""
    step = tmp_path / "model"
    shutil.copytree(find_step(pretrained_dir), step)
    other = step / "tokenizer" / "tokenizer.json"
    described = json.loads(other.read_bytes())
    described["model"]["vocab"] = {**described["model"]["vocab"], "longer": len(described["model"]["vocab"])}
    other.write_text(json.dumps(described), encoding="utf-8")
    (step / "MANIFEST.json").unlink()
    (step / "tokenizer" / "MANIFEST.json").unlink(missing_ok=True)
    with files.staged(tmp_path / "whole") as folder:
        shutil.copytree(step, folder, dirs_exist_ok=True)
    checkpoint = ["--set", f"checkpoint={tmp_path / 'whole'}", "--set", "model=null", "--set", "tokenizer=null"]
    fails(3, "is not the model's", "predict", tmp_path / "whole", "--text", "the [MASK]")
    fails(3, "is not the model's", "finetune", finetuning, *checkpoint, "--out", tmp_path / "a")
    longer = ["--set", f"checkpoint={pretrained_dir}", *checkpoint[2:], "--set", "data.length=65"]
    fails(2, "65", "finetune", finetuning, *longer, "--out", tmp_path / "b")
    within = encoderkit("finetune", finetuning, *longer[:-1], "data.length=40", "--out", tmp_path / "run")
    assert "trained on rows of 32 tokens: its positions from there to data.length (40) are untrained" in within.stderr
    corpus = write(tmp_path / "corpus.txt", "a few words and some more\n" * 9)
    assert encoderkit("train-tokenizer", "--data", corpus, "--vocab-size", "60", "--out", tmp_path / "tok").returncode == 0
    change = ["--set", f"tokenizer={tmp_path / 'tok'}"]
    fails(3, "made with another tokenizer", "pretrain", pretraining, *change, "--out", tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


@pytest.mark.parametrize(("redirect", "code"), [("PYTHONIOENCODING=ascii", 0), (">/dev/full", 5)])
@pytest.mark.parametrize("command", ["init", "show {recipe}"])
def test_an_output_that_cannot_take_it(command: str, redirect: str, code: int, pretraining: Path) -> None:
    line = command.format(recipe=pretraining)
    command = f"{redirect if code == 0 else ''} {sys.executable} -m encoderkit {line} {redirect if code else ''}"
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, env=plain)
    assert done.returncode == code and "Traceback" not in done.stderr and "ignored" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ZeroDivisionError("by zero"), 1, "error: this is a bug in encoderkit"),
        (MemoryError(), 5, "this machine is out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "denied", "x"), 2, '"x": cannot be used: denied'),
    ],
)
def test_what_nobody_expected(raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("encoderkit.stages.show.complete", fail)
    done = encoderkit("show", "recipe.yaml")
    assert done.returncode == code and said in done.stderr and done.stdout == "", done.stderr
    assert ("Traceback" in done.stderr) == (code == 1)
    assert code != 1 or "encoderkit show recipe.yaml" in done.stderr


def test_a_reader_of_the_talk_that_leaves_does_not_end_the_work(tmp_path: Path, pretraining: Path) -> None:
    command = (
        f"({sys.executable} -m encoderkit pretrain {pretraining} --out {tmp_path / 'run'}; echo $? >&3) 2>&1 >&4 | head -n 1"
    )
    done = subprocess.run(
        ["bash", "-c", f"{{ {command} >/dev/null; }} 3>&1 4>/dev/null"], check=False, capture_output=True, text=True
    )
    assert done.stdout == "0\n" and (tmp_path / "run" / "last").exists(), done


def test_a_terminal_that_goes_does_not_end_the_work() -> None:
    """Its window is closed, or the connection to it is lost: what is said goes nowhere from then on."""
    ours, theirs = os.openpty()
    code = "import sys; from encoderkit.console import tell; tell('one'); sys.stdin.readline(); tell('two'); tell('three')"
    with subprocess.Popen([sys.executable, "-c", f"{code}; print('done')"], stdin=-1, stdout=-1, stderr=theirs) as working:
        os.close(theirs)
        assert os.read(ours, 3) == b"one"
        os.close(ours)
        assert working.communicate(b"go on\n")[0] == b"done\n" and working.returncode == 0


def test_a_recipe_of_another_command_is_told_as_that(tmp_path: Path, pretraining: Path, finetuning: Path) -> None:
    out = ("--out", tmp_path / "out")
    finetuning.write_text(finetuning.read_text(encoding="utf-8") + "task: {kind: classify}\n", encoding="utf-8")
    fails(2, "this is a recipe for finetune, and pretrain reads other ones", "pretrain", finetuning, *out)
    pretraining.write_text(pretraining.read_text(encoding="utf-8") + "objective: {kind: masked}\n", encoding="utf-8")
    fails(2, f"fix: encoderkit pretrain {pretraining} ...", "finetune", pretraining, *out)
    given = ("--data", pretraining, "--tokenizer", tmp_path)
    fails(2, "this is a recipe for pretrain, and tokenize reads other ones", "tokenize", pretraining, *given, *out)
    fails(2, "this is a recipe for pretrain, and tune reads other ones\n  fix: a recipe for finetune", "tune", pretraining, *out)
    pretraining.write_text("objectve: {kind: masked}\n", encoding="utf-8")
    fails(2, 'unknown key "objectve"', "pretrain", pretraining, *out)


def test_a_model_that_is_not_good_enough(classifier_dir: Path, labelled: dict[str, Path]) -> None:
    command = ("evaluate", classifier_dir, "--data", labelled["dev"], "--no-baselines", "--json")
    done = encoderkit(*command, "--min", "accuracy=0", "--max", "truncated=0", "--max", "loss=100")
    assert done.returncode == 0, done.stderr
    done = encoderkit(*command, "--min", "accuracy=1.01", "--min", "macro_f1=0")
    assert done.returncode == 4 and ": accuracy is " in done.stderr and "less than 1.01" in done.stderr
    with pytest.raises(CheckError, match=r"is 0\.849997, less than 0\.85"):
        gate.hold(gate.bounds(["accuracy=0.85"], []), {"model": "m", "metrics": {"accuracy": 0.849997}})
    done = encoderkit(*command, "--min", "macro_recall=0", "--min", "macro_precision=0")
    assert done.returncode == 0, done.stderr
    fails(2, "loss, accuracy, macro_f1, mcc, truncated\n", *command, "--max", "unknown=0")
    with pytest.raises(UsageError, match="there are truncated"):
        gate.check_names(gate.bounds([], ["loss=1"]), [])
    assert json.loads(done.stdout)["metrics"]["accuracy"] <= 1 and "macro_f1" not in done.stderr
    fails(2, 'is a metric and a number, found "accuracy"', *command, "--min", "accuracy")
    fails(2, '"acuracy" is not measured here; there are', *command, "--min", "acuracy=0.5")


def test_what_is_to_be_written_over_stays_for_a_run_that_cannot_begin(
    tmp_path: Path, pretraining: Path, finetuning: Path
) -> None:
    """Neither for one that cannot be planned nor, of several, for one whose rows are not right."""
    for number, (stage, recipe, change) in enumerate(
        (
            ("pretrain", pretraining, "training.device=cuda"),
            ("finetune", finetuning, "task.label=nothing"),
            ("finetune", finetuning, "training.metric=loss2"),
            ("finetune", finetuning, "training.device=cuda"),
        )
    ):
        seeds = ["--set", "seeds=[1, 2]"] if stage == "finetune" else []
        out = tmp_path / f"{stage}-{number}"
        assert encoderkit(stage, recipe, "--out", out, *seeds).returncode == 0
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "lock"}
        if change.endswith("cuda") and torch.cuda.is_available():
            continue
        assert encoderkit(stage, recipe, "--out", out, "--overwrite", *seeds, "--set", change).returncode in (2, 3)
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "lock"} == before


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_not_spoken_to(closed: str) -> None:
    command = f"{sys.executable} -m encoderkit show --fields finetune {closed}"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and bool(done.stdout) == (closed == "2>&-")


def test_a_run_of_another_version_is_not_continued(tmp_path: Path, pretraining: Path) -> None:
    out = tmp_path / "run"
    assert encoderkit("pretrain", pretraining, "--out", out).returncode == 0
    for step in out.glob("step-*"):
        config = json.loads((step / "config.json").read_text(encoding="utf-8"))
        text = json.dumps(config | {"format": 99})
        manifest = json.loads((step / files.MANIFEST).read_text(encoding="utf-8"))
        manifest["files"]["config.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        write(step / "config.json", text)
        write(step / files.MANIFEST, json.dumps(manifest))
    fails(3, "written in format 99", "pretrain", pretraining, "--out", out, "--resume")


def test_a_label_of_which_all_rows_are_held_out_is_known(tmp_path: Path, finetuning: Path) -> None:
    rows = [{"text": f"text {i}", "label": f"label {i}"} for i in range(12)]
    data = write(tmp_path / "rare.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    settings = [part for key in (f"data.train={data}", "data.dev=0.25") for part in ("--set", key)]
    done = encoderkit("finetune", finetuning, "--out", tmp_path / "run", *settings)
    assert done.returncode == 0, done.stderr


def test_data_errors(tmp_path: Path, finetuning: Path) -> None:
    out = tmp_path / "run"
    broken = write(tmp_path / "broken.jsonl", '{"text": "a", "label": "b"}\n{"text": \n')
    fails(3, f"{broken}:2", "finetune", finetuning, "--out", out, "--set", f"data.train={broken}")
    fails(3, "label", "finetune", finetuning, "--out", out, "--set", "task.label=sentiment")
    unseen = write(tmp_path / "unseen.jsonl", '{"text": "a", "label": "neutral"}\n')
    fails(3, 'label "neutral" was not seen in training', "finetune", finetuning, "--out", out, "--set", f"data.dev={unseen}")


def test_a_missing_column_is_told_with_the_way_to_name_it(
    tmp_path: Path, finetuning: Path, classifier_dir: Path, tokenizer_dir: Path
) -> None:
    rows, out = write(tmp_path / "a.jsonl", '{"sentence": "a", "label": "positive"}\n'), tmp_path / "out"
    train, label, model = f"data.train={rows}", "task={text: sentence, label: a}", str(classifier_dir)
    for way, *command in (
        ("--set corpus.column=NAME", "train-tokenizer", "--data", rows, "--out", out),
        ("--set column=NAME", "tokenize", "--tokenizer", tokenizer_dir, "--data", rows, "--out", out),
        ("--set task.text=NAME", "finetune", finetuning, "--set", train, "--out", out),
        ("--set task.label=NAME", "finetune", finetuning, "--set", train, "--set", label, "--out", out),
        ("say what it is called in the file: --column", "evaluate", model, "--data", rows),
        ("--column NAME", "predict", model, rows),
        ("--column NAME", "embed", model, rows, "--out", tmp_path / "out.npy"),
    ):
        fails(3, f'; the columns are "sentence", "label"\n  fix: {way}', *command)


def test_a_run_its_directory_and_its_result(tmp_path: Path, pretraining: Path) -> None:
    out = tmp_path / "run"
    done = encoderkit("pretrain", pretraining, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"updates", "tokens", "seconds", "tokens_per_second", "dev", "test", "best", "out"} <= result.keys()
    assert {"recipe.yaml", "metrics.jsonl", "manifest.json", "best", "last"} <= {path.name for path in out.iterdir()}
    fails(2, "exists already and nothing is overwritten unasked", "pretrain", pretraining, "--out", out)
    fails(2, "--resume and --overwrite exclude each other", "pretrain", pretraining, "--out", out, "--resume", "--overwrite")
    fails(2, "another recipe; different: seed", "pretrain", pretraining, "--out", out, "--resume", "--set", "seed=5")
    again = encoderkit("pretrain", pretraining, "--out", out, "--resume", "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["dev"] == result["dev"]
    assert encoderkit("show", out).stdout.startswith("# a pretrain recipe, completed\nseed: 17\n")


def test_show_schema_and_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in RECIPES:
        assert f"# {kind}:" in encoderkit("show", "--fields", kind).stdout
        assert json.loads(encoderkit("schema", kind).stdout)["type"] == "object"
        done = encoderkit("init", kind)
        written = done.stderr.split("wrote ")[1].split(";")[0]
        assert done.returncode == 0 and encoderkit("show", tmp_path / written).stdout.startswith(
            f"# a {kind} recipe, completed\n"
        )
        assert encoderkit("init", kind).returncode == 2
    changed = encoderkit("show", tmp_path / "modernbert-mini.yaml", "--set", "training.batch=7").stdout
    assert "  batch: 7\n" in changed
    schema = tmp_path / "schema.json"
    assert encoderkit("schema", "pretrain", "--out", schema).returncode == 0 and schema.is_file()
    assert encoderkit("schema", "pretrain", "--out", schema).returncode == 2
    fails(2, "this is no recipe", "show", write(tmp_path / "other.yaml", "colour: red\n"))


def test_demo_refuses_a_directory_that_is_there(tmp_path: Path) -> None:
    write(tmp_path / "note.txt", "mine")
    fails(2, "exists already", "demo", "--out", tmp_path)
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a matmul primitive"), False),
        (RuntimeError("std::bad_alloc"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("could not create a primitive"), False),
    ],
)
def test_how_libraries_say_that_memory_ran_out(error: Exception, full: bool) -> None:
    assert out_of_memory(error) == full


def test_a_model_from_left_to_right(tmp_path: Path, tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path]) -> None:
    """Pretrained, measured, asked and fine-tuned by the commands; what cannot be is refused before it begins."""
    recipe, run = write(tmp_path / "gpt.yaml", PRETRAIN.format(tokenizer=tokenizer_dir, store=store_dir)), tmp_path / "run"
    fails(2, "model.direction: left_to_right", "pretrain", recipe, "--out", run, "--set", "objective.kind=causal")
    settings = ("--set", "objective.kind=causal", "--set", "model.kind=gpt")
    done = encoderkit("pretrain", recipe, "--out", run, *settings, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dev"].keys() == {"loss", "perplexity", "accuracy", "bits_per_byte"}
    measured = json.loads(encoderkit("evaluate", run, "--data", store_dir, "--json").stdout)["metrics"]
    assert measured["bits_per_byte"] > 0
    said = encoderkit("generate", run, "--text", "the film", "-n", "2", "--max-tokens", "5", "--json")
    [entry] = json.loads(said.stdout)["generated"]
    assert entry["prompt"] == "the film" and len(entry["texts"]) == 2
    assert encoderkit("generate", run, "--text", "the", "--temperature", "0").stdout.startswith("the")
    pairs = write(tmp_path / "pairs.jsonl", '{"good": "the day was sad", "bad": "day the was sad"}\n')
    asked = ("evaluate", run, "--suite", "minimal_pairs", "--data", pairs)
    assert json.loads(encoderkit(*asked, "--json").stdout)["rows"] == 1
    assert "pairs" in encoderkit(*asked).stdout
    fails(2, "--masking", *asked, "--masking", "token")
    fails(2, "--masking", "evaluate", run, "--data", store_dir, "--masking", "token")
    fails(2, "to fill blanks", "predict", run, "--text", "the [MASK]")
    task = FINETUNE.format(tokenizer=tokenizer_dir, **labelled).replace("model: {kind: bert, dim: 32, layers: 1, heads: 2}\n", "")
    tuning = write(tmp_path / "tune.yaml", task.replace(f"tokenizer: {tokenizer_dir}", f"checkpoint: {run}"))
    fails(2, "has seen nothing", "finetune", tuning, "--out", tmp_path / "tuned")
    scratch = write(tmp_path / "scratch.yaml", FINETUNE.format(tokenizer=tokenizer_dir, **labelled))
    fails(2, "has seen nothing", "finetune", scratch, "--out", tmp_path / "tuned", "--set", "model.direction=left_to_right")
    done = encoderkit("finetune", tuning, "--out", tmp_path / "tuned", "--set", "task.pooling=last", "--json")
    assert done.returncode == 0, done.stderr
    fails(2, "fine-tuned", "generate", tmp_path / "tuned", "--text", "the")


def test_a_flag_that_takes_one_value_is_given_once(labelled: dict[str, Path], tmp_path: Path) -> None:
    """Its first value would be ignored without a word; those that may be repeated are not meant."""
    rows = labelled["dev"]
    fails(2, "--dev: is given more than once", "doctor", "data", rows, "--dev", rows, f"--dev={rows}")
    fails(2, "--out: is given more than once", "init", "pretrain", "--out", tmp_path / "a", "--out", tmp_path / "b")
    assert encoderkit("doctor", "data", rows, "--text", "text", "--label", "label", "--text", "label").returncode == 0


def test_files_are_what_their_names_say(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    rows = labelled["dev"]
    assert encoderkit("predict", classifier_dir, rows, "--out", tmp_path / "x.csv").returncode == 0
    assert (tmp_path / "x.csv").read_text(encoding="utf-8-sig").startswith("text,label,")
    errors = ("evaluate", classifier_dir, "--data", rows, "--errors", tmp_path / "e.csv")
    fails(2, f"what is written is lines of JSON\n  fix: --errors {tmp_path / 'e.jsonl'}", *errors)
    sheet = write(tmp_path / "rows.xlsx", "PK")
    fails(2, "fix: save it as CSV in UTF-8", "evaluate", classifier_dir, "--data", sheet)
    several = ("evaluate", classifier_dir, "--data", rows, "--data", labelled["train"])
    fails(2, f"fix: --data {rows}, and the others in commands of their own", *several)


def test_a_run_stands_for_its_tokenizer(classifier_dir: Path, tmp_path: Path) -> None:
    done = encoderkit("inspect", "tokens", classifier_dir, "--text", "a gripping film", "--json")
    assert done.returncode == 0 and json.loads(done.stdout), done.stderr
    fails(2, "expected a recipe, and this is a directory", "compare", classifier_dir, classifier_dir, "--out", tmp_path / "c")
