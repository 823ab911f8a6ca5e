"""The stage: what it writes is loaded by transformers with equal tokens and logits, and nothing is left of a failure."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from encoderkit import files
from encoderkit.errors import CheckError, DataError, UsageError
from encoderkit.inference import open_model
from encoderkit.interop.hf import to_hf
from encoderkit.learner import Vocabulary
from encoderkit.models.config import (
    AlbertConfig,
    BertConfig,
    DebertaConfig,
    DecoderConfig,
    ElectraConfig,
    EncoderConfig,
    EsmcConfig,
    GptConfig,
    LstmConfig,
    ModernBertConfig,
    RobertaConfig,
)
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import CausalConfig, MaskedConfig, ReplacedConfig, SpansConfig
from encoderkit.preflight import find_step
from encoderkit.stages import import_model
from encoderkit.stages.export import TEXTS, compare, run
from encoderkit.stages.finetune import load_pretrained
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.text.config import TokenizerConfig, TokenizerKind
from encoderkit.text.training import train
from encoderkit.training.checkpoint import Description, State, save

pytest.importorskip("transformers")

Goal = ClassifyConfig | MaskedConfig | CausalConfig | ReplacedConfig | SpansConfig
LABELS = ["negative", "positive", "很好"]
SINGLE, PAIR = ClassifyConfig(text="a"), ClassifyConfig(text=["a", "b"], multiple=True)
MASKED, NEXT, ORDER = MaskedConfig(), MaskedConfig(pairs="next"), MaskedConfig(pairs="order")
ENCODERS: dict[str, EncoderConfig] = {
    "bert": BertConfig(dim=32, layers=2, heads=2, max_length=64),
    "roberta": RobertaConfig(dim=32, layers=2, heads=2, max_length=64),
    "albert": AlbertConfig(dim=32, layers=3, heads=2, max_length=64, embedding_dim=12, groups=2, group_blocks=2),
    "modernbert": ModernBertConfig(dim=32, layers=3, heads=2, hidden=48, max_length=64, window=8),
    "esmc": EsmcConfig(dim=32, layers=2, heads=2, hidden=48, max_length=64),
    "gpt": GptConfig(dim=32, layers=2, heads=2, max_length=64),
    "electra": ElectraConfig(dim=32, layers=2, heads=2, embedding_dim=12, max_length=64),
    "deberta": DebertaConfig(dim=32, layers=2, heads=2, buckets=16, max_length=64),
    "bert, fan_in": BertConfig(dim=32, layers=2, heads=2, max_length=64, init="fan_in"),
    "lstm": LstmConfig(dim=8),
}


def tokenizer_files(kind: TokenizerKind) -> dict[str, bytes]:
    return train(iter(TEXTS[1:] * 3), TokenizerConfig(kind=kind, vocab_size=400, min_frequency=1)).files


def model_at(
    run_dir: Path, encoder: EncoderConfig, goal: Goal, tokenizer: dict[str, bytes], length: int, cuts: Tensor | None = None
) -> Path:
    """A model directory as training leaves it, with random weights; `cuts`: what logits are compared with."""
    size = len(json.loads(tokenizer["tokenizer.json"])["model"]["vocab"])
    vocabulary = Vocabulary(size, 0, 1, 2, 3, 4)
    torch.manual_seed(0)
    task = isinstance(goal, ClassifyConfig)
    learner = (
        Classify(goal, encoder, vocabulary, length, LABELS) if task else OBJECTIVES[type(goal)](goal, encoder, vocabulary, length)
    )
    if cuts is not None and isinstance(learner, Classify):
        learner.cuts.copy_(cuts)
    config = {
        "format": 1,
        "encoder": encoder.model_dump(mode="json"),
        "task" if task else "objective": goal.model_dump(mode="json"),
        "vocabulary": vocabulary._asdict(),
        "length": length,
    }
    return save(run_dir, learner, [], State(update=1), Description(config, LABELS if task else None, tokenizer))


@pytest.mark.parametrize(
    ("name", "goal", "kind"),
    [
        ("bert", SINGLE, "wordpiece"),
        ("bert", PAIR, "bpe"),
        ("bert", MASKED, "char"),
        ("bert", NEXT, "wordpiece"),
        ("bert, fan_in", NEXT, "wordpiece"),
        ("roberta", PAIR, "unigram"),
        ("roberta", MASKED, "bpe"),
        ("albert", PAIR, "wordpiece"),
        ("albert", MASKED, "bpe"),
        ("albert", ORDER, "unigram"),
        ("modernbert", SINGLE.model_copy(update={"pooling": "mean"}), "word"),
        ("modernbert", MASKED, "char"),
        ("esmc", PAIR, "wordpiece"),
        ("esmc", MASKED, "wordpiece"),
        ("gpt", SINGLE.model_copy(update={"pooling": "last"}), "wordpiece"),
        ("gpt", CausalConfig(), "bpe"),
        ("electra", SINGLE, "wordpiece"),
        ("electra", MASKED, "unigram"),
        ("deberta", PAIR, "unigram"),
        ("deberta", MASKED, "wordpiece"),
    ],
)
def test_transformers_loads_it_with_equal_tokens_and_logits(name: str, goal: Goal, kind: TokenizerKind, tmp_path: Path) -> None:
    model_at(tmp_path / "run", ENCODERS[name], goal, tokenizer_files(kind), length=48)
    task = isinstance(goal, ClassifyConfig)
    result = run(tmp_path / "run", ["hf"], tmp_path / "out")
    assert result["parity"]["rows"] == len(TEXTS) + task and result["parity"]["max_abs_diff"] < 1e-5
    assert set(files.verify(tmp_path / "out")["files"]) == set(result["files"]) >= {"config.json", "tokenizer.json"}
    described = json.loads((tmp_path / "out" / "tokenizer_config.json").read_bytes())
    assert described["model_max_length"] == (48 if task else 64)


def test_an_export_reads_as_much_as_the_model_was_trained_on(pretrained_dir: Path, tmp_path: Path) -> None:
    """And not what positions there are beyond, which are as random as they were."""
    step = find_step(pretrained_dir)
    run(step, ["hf"], tmp_path / "out")
    described = json.loads((tmp_path / "out/tokenizer_config.json").read_bytes())
    model = open_model(step)
    assert described["model_max_length"] == model.config["length"] < model.config["encoder"]["max_length"]


def test_what_transformers_does_not_have_is_written_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_at(tmp_path / "run", ENCODERS["lstm"], SINGLE, tokenizer_files("word"), 20)
    result = run(tmp_path / "run", ["hf"], tmp_path / "out")
    assert result["parity"] is None and result["loads_with"] is None
    assert "transformers has no class for encoders of kind lstm" in capsys.readouterr().err
    tensors = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    assert "encoder.layers.0.backwards.weight_ih_l0" in tensors


def test_without_transformers_it_is_written_and_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = model_at(tmp_path / "run", ENCODERS["bert"], SINGLE, tokenizer_files("wordpiece"), 20)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        result = run(step, ["hf"], tmp_path / "out")
    assert result["parity"] is None and "encoderkit[hf]" in capsys.readouterr().err
    with torch.inference_mode():  # and what was written is right
        assert compare(open_model(step), result["loads_with"], tmp_path / "out").max_abs_diff < 1e-5


def test_thresholds_go_along_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = torch.tensor([-1.3, 0.0, 2.2])
    step = model_at(tmp_path / "run", ENCODERS["bert"], PAIR, tokenizer_files("wordpiece"), 20, cuts)
    assert "thresholds.json" in run(step, ["hf"], tmp_path / "out")["files"]
    told = json.loads((tmp_path / "out" / "thresholds.json").read_bytes())
    expected = {label: torch.sigmoid(cut.double()).item() for label, cut in zip(LABELS, cuts, strict=True)}
    assert told["thresholds"] == pytest.approx(expected)
    assert "negative 0.2142, positive 0.5" in capsys.readouterr().err
    import_model.run(str(tmp_path / "out"), tmp_path / "back")
    back = open_model(tmp_path / "back").learner
    assert isinstance(back, Classify) and torch.allclose(back.cuts, cuts, atol=1e-6)
    (tmp_path / "out" / "thresholds.json").write_text('{"thresholds": {"negative": 0.5}}')
    with pytest.raises(DataError, match="no thresholds of this model"):
        import_model.run(str(tmp_path / "out"), tmp_path / "other")


def test_nothing_is_overwritten_unasked_and_targets_are_checked_first(tmp_path: Path) -> None:
    model_at(tmp_path / "run", ENCODERS["lstm"], MASKED, tokenizer_files("word"), 20)
    with pytest.raises(UsageError, match="unknown target"):
        run(tmp_path / "run", ["hf", "tflite"], tmp_path / "out")
    run(tmp_path / "run", ["hf"], tmp_path / "out")
    with pytest.raises(UsageError, match="overwrite"):
        run(tmp_path / "run", ["hf"], tmp_path / "out")
    run(tmp_path / "run", ["hf"], tmp_path / "out", overwrite=True)


def test_a_tokenizer_that_differs_in_transformers_leaves_nothing_behind(tmp_path: Path) -> None:
    tokenizer = dict(tokenizer_files("wordpiece"))
    description = json.loads(tokenizer["tokenizer.json"])
    description["post_processor"] = None  # transformers would put no [CLS] and [SEP]
    tokenizer["tokenizer.json"] = json.dumps(description).encode()
    model_at(tmp_path / "run", ENCODERS["bert"], SINGLE, tokenizer, 20)
    with pytest.raises(CheckError, match="tokenizer"):
        run(tmp_path / "run", ["hf"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_weight_that_differs_is_found(tmp_path: Path) -> None:
    step = model_at(tmp_path / "run", ENCODERS["modernbert"], SINGLE, tokenizer_files("wordpiece"), 20)
    run(step, ["hf"], tmp_path / "out")
    weights = tmp_path / "out" / "model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors["model.layers.1.mlp.Wo.weight"][0] += 0.5
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckError, match="logits"):
        compare(open_model(step), "AutoModelForSequenceClassification", tmp_path / "out")


@pytest.mark.parametrize("sharing", ["embeddings", "gradient_disentangled"])
@pytest.mark.parametrize("name", ["electra", "deberta"])
def test_discriminator_and_generator(name: str, sharing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a checkpoint of its own; a head that transformers has no class for is left out, and that is said."""
    objective, tokenizer = (
        ReplacedConfig.model_validate({"sharing": sharing, "generator": {"share": 0.5}}),
        tokenizer_files("wordpiece"),
    )
    step = model_at(tmp_path / "run", ENCODERS[name], objective, tokenizer, length=48)
    learner: Any = open_model(step).learner
    assert learner.head.dense.weight.any()
    for part, loads_with in (
        ("model", "AutoModelForPreTraining"),
        ("encoder", "AutoModel"),
        ("generator", "AutoModelForMaskedLM"),
    ):
        result = run(step, ["hf"], tmp_path / part, part=part)  # type: ignore[arg-type]
        assert result["parity"]["max_abs_diff"] < 1e-5
        assert result["loads_with"] == ("AutoModel" if (name, part) == ("deberta", "model") else loads_with)
    assert ("goes without its head" in capsys.readouterr().err) == (name == "deberta")
    begun = Classify(SINGLE, ENCODERS[name], open_model(step).learner.vocabulary, 32, LABELS)
    load_pretrained(begun, step)
    assert torch.equal(begun.encoder.tokens.weight, open_model(step).learner.encoder.tokens.weight)
    with pytest.raises(UsageError, match="has a generator"):
        run(model_at(tmp_path / "other", ENCODERS["bert"], MASKED, tokenizer, 48), ["hf"], tmp_path / "no", part="generator")


def test_an_encoder_goes_without_the_sentinels_of_its_objective(tmp_path: Path) -> None:
    """They are rows after the tokenizer's own, which the export has not."""
    goal = SpansConfig(sentinels=7, decoder=DecoderConfig(layers=1))
    step = model_at(tmp_path / "run", ENCODERS["bert"], goal, tokenizer_files("wordpiece"), 32)
    result = run(step, ["hf"], tmp_path / "out", part="encoder")
    assert result["parity"]["max_abs_diff"] < 1e-5 and result["loads_with"] == "AutoModel"


@pytest.mark.parametrize(
    ("goal", "more"), [(ReplacedConfig.model_validate({"generator": {"share": 0.5}}), {}), (MASKED, {"embedding_dim": 12})]
)
def test_a_head_of_another_make_is_left(
    goal: Goal, more: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ModernBERT's classifier begins with the transform of its vocabulary head, where that is of the same make."""
    encoder = ENCODERS["modernbert"].model_copy(update=more)
    step = model_at(tmp_path / "run", encoder, goal, tokenizer_files("wordpiece"), 32)
    ours = Classify(SINGLE, encoder, open_model(step).learner.vocabulary, 32, LABELS)
    load_pretrained(ours, step)
    assert "begins with random weights" in capsys.readouterr().err
    assert torch.equal(ours.encoder.tokens.weight, open_model(step).learner.encoder.tokens.weight)


@pytest.mark.parametrize(
    ("name", "goal"),
    [("bert", MASKED), ("roberta", MASKED), ("albert", MASKED), ("modernbert", MASKED), ("bert", NEXT), ("albert", ORDER)],
)
def test_fine_tuning_begins_with_what_transformers_begins_with(name: str, goal: MaskedConfig, tmp_path: Path) -> None:
    import transformers

    step = model_at(tmp_path / "run", ENCODERS[name], goal, tokenizer_files("wordpiece"), 32)
    run(step, ["hf"], tmp_path / "dist")
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "dist", num_labels=3, output_loading_info=True
    )
    ours = Classify(SINGLE, ENCODERS[name], open_model(step).learner.vocabulary, 32, LABELS)
    load_pretrained(ours, step)
    named = to_hf(ENCODERS[name], "classify", ours.state_dict(), 0)
    for key, value in theirs.state_dict().items():
        if key in info["missing_keys"]:  # made anew there; ours is new too, and not equal by chance
            assert "classifier" in key or ("pooler" in key and goal.pairs == "none")  # pairs have trained the pooler
        elif key in named:
            assert torch.equal(named[key], value), key
    assert len(named.keys() - info["missing_keys"]) > 10
