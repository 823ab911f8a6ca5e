"""Texts from texts: memorised behind every kind of encoder, measured as by the reference scorers, from recipe to prediction."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit import preflight
from encoderkit.config import validate
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model, vocabulary_of
from encoderkit.models.config import DecoderConfig
from encoderkit.models.decoding import Sampling, beam_search
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step, task_of
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import export
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.stages.pretrain import pretrain
from encoderkit.tasks import generate as generating
from encoderkit.tasks import wording
from encoderkit.tasks.config import GenerateConfig
from encoderkit.tasks.generate import Example, Generate
from encoderkit.tasks.texts import Tokens
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.tokenizers import open_tokenizer
from encoderkit.text.training import train
from encoderkit.training.checkpoint import read_tensors
from encoderkit.training.config import AdamWConfig
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.reliability.small import assert_same, result
from tests.training import runs

ENGLISH = ["The cat sat on the mat.", "A dog runs!", "It is 3.5 km away, isn't it?", ""]
WRITTEN = ["the cat sat on a mat", "Dogs run .", "It's 3.5 km away.", "nothing"]
CHINESE = (["猫坐在垫子上。", "他跑了2公里"], ["猫在垫子上", "她跑 2 公里"])


ROUGES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}


def examples(count: int) -> list[Example]:
    targets = [np.random.default_rng(i).integers(5, 40, 3 + i % 4) for i in range(count)]
    pairs = zip(runs.sequences(count), targets, strict=True)
    return [Example(Tokens(ids, None, 0), target, "", i) for i, (ids, target) in enumerate(pairs)]


@pytest.mark.parametrize("kind", runs.KINDS)
def test_eight_pairs_are_memorised_and_written(kind: str) -> None:
    torch.manual_seed(1)
    config = GenerateConfig(label_smoothing=0, target_length=10)
    learner = Generate(config, runs.encoder(kind), runs.VOCABULARY, runs.LENGTH)
    optimizers = build_optimizers(learner, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
    source = examples(8)
    for update in updates(learner, optimizers, source, runs.plan(200, 8, clip=1.0)):
        if update.loss < 0.02:
            break
    batch = learner.eval().collate(source)
    with torch.no_grad():
        found = learner.observe(batch.inputs, batch.targets)
        assert [ids.tolist() for ids in found["written"]] == [e.target.tolist() for e in source if e.target is not None]
        alone = learner.collate(source[3:4])
        torch.testing.assert_close(learner.observe(alone.inputs, alone.targets)["nats"], found["nats"][3:4], atol=1e-4, rtol=1e-3)
    assert batch.counts["generate"] == sum(len(e.target) + 1 for e in source if e.target is not None)


@pytest.mark.parametrize("kind", ["cnn", "t5"])
def test_smoothing_is_that_of_torch(kind: str) -> None:
    """Each pair alone, as a row of its own, by torch's loss over all its logits: as much as all of them packed, and as steep."""
    torch.manual_seed(1)
    learner = Generate(GenerateConfig(label_smoothing=0.3), runs.encoder(kind), runs.VOCABULARY, runs.LENGTH).eval()
    batch, total = learner.collate(examples(7)), torch.zeros(())
    assert (len(batch.inputs.ids) < 7) == learner.encoder.packs
    for example in examples(7):
        assert example.target is not None
        source = Inputs.of(torch.from_numpy(example.tokens.ids)[None])
        given, labels = [learner.start, *example.target], [*example.target, learner.target.sep]
        read = torch.tensor([given])
        logits = learner.head(read, torch.ones_like(read), source.documents, learner.encoder(source), learner.encoder.tokens)
        total = total + torch.nn.CrossEntropyLoss(label_smoothing=0.3, reduction="sum")(logits[0], torch.tensor(labels))
    found = learner(batch.inputs, batch.targets)["generate"]
    torch.testing.assert_close(found, total)
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    for ours, theirs in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_long_targets_of_short_sources_do_not_widen_the_rows() -> None:
    learner = Generate(GenerateConfig(), runs.encoder("t5"), runs.VOCABULARY, runs.LENGTH).eval()
    draw = np.random.default_rng(0)
    source = [Example(Tokens(draw.integers(5, 40, 4), None, 0), draw.integers(5, 40, n), "", n) for n in range(20, 150, 5)]
    batch = learner.collate(source)
    assert batch.targets["given"].shape[1] <= 146 and batch.inputs.ids.shape[1] < 40, "the longest is 145 and its start"
    assert (batch.targets["given"] != learner.target.pad).float().mean() > 0.8
    found = learner.observe(batch.inputs, batch.targets)["nats"]
    alone = learner.collate(source[7:8])
    torch.testing.assert_close(learner.observe(alone.inputs, alone.targets)["nats"], found[7:8], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "t5"])
def test_a_pair_is_dropped_alike_whatever_it_is_packed_with(kind: str) -> None:
    torch.manual_seed(1)
    encoder = runs.encoder(kind)
    if kind == "t5":
        encoder = encoder.model_copy(update={"dropout": 0.3, "attention_dropout": 0.2})
    config = GenerateConfig(rdrop=1.0, decoder=DecoderConfig(dropout=0.3))
    learner = Generate(config, encoder, runs.VOCABULARY, runs.LENGTH).train()

    def losses(numbers: list[int]) -> dict[str, torch.Tensor]:
        batch = learner.collate([examples(7)[i] for i in numbers], [np.random.default_rng(i) for i in numbers])
        return learner(batch.inputs, batch.targets)

    together, parts = losses([0, 1, 2, 3, 4, 5, 6]), [losses(numbers) for numbers in ([6, 2], [4], [0, 5, 3, 1])]
    for term, value in together.items():
        torch.testing.assert_close(value, sum(part[term] for part in parts), atol=1e-4, rtol=1e-5)


def test_rouge_is_that_of_google() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([*ROUGES.values()])
    for name, theirs in ROUGES.items():
        expected = [scorer.score(right, written)[theirs].fmeasure for right, written in zip(ENGLISH, WRITTEN, strict=True)]
        assert wording.rouge(ENGLISH, WRITTEN)[name] == pytest.approx(expected, abs=1e-9)
    # Characters of Chinese: a word is one of them. 猫 在 垫 子 上 of 6 and 5.
    assert wording.rouge(*CHINESE)["rouge_l"][0] == pytest.approx(2 * 5 / 11)
    assert wording.rouge(*CHINESE)["rouge_2"][0] == pytest.approx(2 * 3 / 9)  # 在垫 垫子 子上
    mixed = wording.rouge(["2008年北京举行iPhone会议"], ["2008年上海举行iPhone会议"])  # numbers and Latin words are one each
    assert mixed["rouge_1"][0] == pytest.approx(7 / 9)
    marked = wording.rouge(["कि", "बाल", "cafe\u0301s", "यह किताब"], ["की", "बोली", "cafés", "वह किताब"])  # marks are of words
    assert marked["rouge_l"].tolist() == [0, 0, 1, 0.5]


def test_so_it_is_on_anything_written_in_ascii() -> None:
    """Beyond it Google's splits at every letter with an accent, and here a word is a word."""
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([*ROUGES.values()])
    rng, words = random.Random(3), ["a", "the", "CAT", "cat", "3.5", "it's", "--", "x_y", "", "...", "2km", "(b)", "The"]
    sides = [[" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(200)] for _ in range(2)]
    for name, theirs in ROUGES.items():
        expected = [scorer.score(right, written)[theirs].fmeasure for right, written in zip(*sides, strict=True)]
        assert wording.rouge(*sides)[name] == pytest.approx(expected, abs=1e-9)


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found = wording.scores(*CHINESE, tokens="zh")
    assert found == wording.scores(*CHINESE, tokens="auto") != wording.scores(*CHINESE, tokens="13a")
    for texts, how in ((ENGLISH, "13a"), (CHINESE[0], "zh"), (["これは本です。", "猫"], "char"), (["你好", "OK, fine"], "13a")):
        assert wording.settled("auto", texts) == how
    assert found["bleu"] == sacrebleu.corpus_bleu(CHINESE[1], [CHINESE[0]], tokenize="zh").score
    assert found["chrf"] == sacrebleu.corpus_chrf(CHINESE[1], [CHINESE[0]]).score
    low_high = wording.intervals(ENGLISH, WRITTEN, "13a")
    values = wording.scores(ENGLISH, WRITTEN, "13a")
    assert all(low <= values[name] <= high for name, (low, high) in low_high.items())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts to be written backwards."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = ["film", "day", "house", "song", "good", "bad"]
    rows = [[words[(i * k) % 6] for k in (1, 2, 3)] for i in range(24)]
    path.write_text("".join(json.dumps({"a": " ".join(r), "b": " ".join(r[::-1])}) + "\n" for r in rows), encoding="utf-8")
    return path


def recipe(pairs: Path, task: dict[str, Any] | None = None, **more: Any) -> FinetuneRecipe:
    described = {
        "data": {"train": str(pairs), "dev": str(pairs), "test": str(pairs), "length": 24},
        "task": {"kind": "generate", "source": "a", "target": "b", "target_length": 12, **(task or {})},
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"updates": 8, "batch": 12, **runs.TRAINING},
        **more,
    }
    return validate(FinetuneRecipe, described, "recipe")


@pytest.mark.parametrize("beams", [1, 3])
def test_from_the_recipe_to_the_prediction(tokenizer_dir: Path, pairs: Path, tmp_path: Path, beams: int) -> None:
    model = {"kind": "lstm", "dim": 32}
    made = recipe(pairs, {"beams": beams}, tokenizer=str(tokenizer_dir), model=model)
    found = finetune(made, tmp_path / "run")
    assert set(found["dev"]) == {"loss", "bleu", "chrf", *ROUGES} and found["test"] == pytest.approx(found["dev"])
    result = evaluate(Path(found["best"]), pairs)
    assert result["metrics"]["chrf"] == pytest.approx(found["dev"]["chrf"])
    assert set(result["intervals"]) == {"bleu", "chrf", *ROUGES}
    predict(Path(found["best"]), None, [["good film"], ["bad day"]], tmp_path / "out.jsonl")
    found_lines = lines(tmp_path / "out.jsonl")
    assert [line["text"] for line in found_lines] == ["good film", "bad day"] and all("written" in line for line in found_lines)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_what_is_drawn_follows_the_seed_and_the_row(
    tokenizer_dir: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands beside it; and never with a special token, nor one that the tokenizer has not."""
    found = finetune(recipe(pairs, tokenizer=str(tokenizer_dir), model={"kind": "lstm", "dim": 16}), tmp_path / "run")
    step, sources = Path(found["best"]), [["good film"], ["bad day"], ["song"], ["house house song"]]

    def drawn(name: str, texts: list[list[str]] = sources, sampling: Sampling | None = None, **more: Any) -> list[str]:
        predict(step, None, texts, tmp_path / name, sampling=sampling, precision="fp32", **more)
        return [line["written"] for line in lines(tmp_path / name)]

    first = drawn("a", sampling=Sampling())
    assert first == drawn("b", sampling=Sampling(), batch=1) and len(set(first)) == 4
    assert drawn("c", sources[:2], Sampling()) == first[:2] != drawn("d", sources[:2], Sampling(), seed=18)
    assert drawn("beams", beams=4) == drawn("short", beams=4, length_penalty=1.0)
    asked: list[int] = []
    monkeypatch.setattr(generating, "beam_search", lambda *given: asked.append(given[4]) or beam_search(*given))
    evaluate(step, pairs, beams=3, against=step)
    assert set(asked) == {3}
    for more, message in (
        ({"length_penalty": 2.0}, "there is one"),
        ({"length_penalty": float("nan")}, "from -10 to 10"),
        ({"beams": 2, "sampling": Sampling()}, "none is drawn"),
    ):
        with pytest.raises(UsageError, match=message):
            drawn("h", **more)
    plain = drawn("e")
    assert plain == drawn("f", sampling=Sampling(temperature=0)) == drawn("g", sampling=Sampling(top_k=1)) != first
    with pytest.raises(UsageError, match="at most 1"):
        drawn("h", sampling=Sampling(top_p=2.0))
    with pytest.raises(UsageError, match="should be 0, or"):
        drawn("h", sampling=Sampling(float("nan")))
    learner = open_model(step).learner
    assert isinstance(learner, Generate) and learner.tokenizer is not None
    batch = learner.collate(learner.encode([Row({"a": "x"}, 1, "")] * 200, learner.tokenizer, labelled=False))
    with torch.no_grad():
        ids = np.concatenate(learner.draw(batch.inputs, [np.random.default_rng(i) for i in range(200)], Sampling(temperature=50)))
    assert len(set(ids.tolist())) > 100 and not np.isin(ids, learner.tokenizer.special).any()


def test_drawing_is_for_models_that_write(classifier_dir: Path, pairs: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    found = finetune(recipe(pairs, tokenizer=str(tokenizer_dir), model={"kind": "lstm", "dim": 16}), tmp_path / "run")
    step = Path(found["best"])
    assert not preflight.drawn(step, None, None, None, None) and not preflight.drawn(
        find_step(classifier_dir), None, 2, None, None
    )
    assert all(preflight.drawn(step, *flags) for flags in ((0.5, None, None, 3), (None, 3, None, None), (None, None, 0.5, None)))
    for flags, name in (
        ((0.5, None, None, None), "--temperature"),
        ((None, 2, 0.5, None), "--top-p"),
        ((None, None, None, 1), "--seed"),
    ):
        with pytest.raises(UsageError, match="writes texts") as error:
            preflight.drawn(find_step(classifier_dir), *flags)
        assert error.value.where == name
    for more, flag in (({"beams": 3}, "--beams"), ({"length_penalty": 0.5}, "--length-penalty")):
        with pytest.raises(UsageError, match="models that write") as error:
            predict(find_step(classifier_dir), None, [["a film"]], tmp_path / "none", **more)
        assert error.value.where == flag
    for penalty in (1000, -1000, float("nan")):
        with pytest.raises(UsageError, match="from -10 to 10"):
            predict(step, None, [["a film"]], tmp_path / "none", beams=2, length_penalty=penalty)
    with pytest.raises(UsageError, match="--text has none"):
        predict(step, None, [["a film"]], tmp_path / "none", columns=["other"])
    with pytest.raises(UsageError, match="--seed changes nothing"):
        preflight.drawn(step, 0, None, None, 1)


def test_it_begins_with_the_decoder_of_the_checkpoint(tokenizer_dir: Path, store_dir: Path, pairs: Path, tmp_path: Path) -> None:
    described = {
        "tokenizer": str(tokenizer_dir),
        "data": {"train": str(store_dir), "length": 24},
        "model": {"kind": "t5", "dim": 32, "layers": 2, "heads": 2},
        "objective": {"kind": "spans", "decoder": {"layers": 1, "head": "own"}},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "training": {"updates": 2, "batch": 8, **runs.TRAINING},
    }
    before = pretrain(validate(PretrainRecipe, described, "recipe"), tmp_path / "t5")["best"]
    written = recipe(pairs, checkpoint=str(tmp_path / "t5"))
    completed = validate(FinetuneRecipe, json.loads(written.model_dump_json()), "as `show` has it")
    assert task_of(completed, find_step(tmp_path / "t5")) == task_of(written, find_step(tmp_path / "t5"))
    optimizer = {"kind": "adamw", "lr": 1e-9, "weight_decay": 0}
    made = recipe(
        pairs, checkpoint=str(tmp_path / "t5"), optimizer=optimizer, training={"updates": 1, "batch": 4, **runs.TRAINING}
    )
    after = Path(finetune(made, tmp_path / "run")["best"])
    learner = open_model(after).learner
    assert isinstance(learner, Generate) and learner.config.decoder == DecoderConfig(layers=1, head="own")
    old, new = read_tensors(Path(before) / "model.safetensors"), read_tensors(after / "model.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        torch.testing.assert_close(tensor, old[name][: len(tensor)], atol=1e-6, rtol=0)


def test_the_export_takes_texts_literally(tokenizer_dir: Path, pairs: Path, tmp_path: Path) -> None:
    """Nobody asks a fine-tuned model with [MASK] or a sentinel, as one that was pretrained on spans."""
    model = {"kind": "t5", "dim": 32, "layers": 1, "heads": 2}
    training = {"updates": 1, **runs.TRAINING}
    step = Path(finetune(recipe(pairs, tokenizer=str(tokenizer_dir), model=model, training=training), tmp_path / "run")["best"])
    assert export.run(step, ["hf"], tmp_path / "hf")["parity"]["max_abs_diff"] < 1e-5
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_bytes())["split_special_tokens"] is True


CHARACTERS = "我你他好书水山天大人爱吃喝看"


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of Chinese characters, special tokens elsewhere than in the source's."""
    out = tmp_path_factory.mktemp("zh") / "tokenizer"
    described = json.loads(train(iter([" ".join(CHARACTERS)] * 20), TokenizerConfig(vocab_size=60)).files["tokenizer.json"])
    order = sorted(described["model"]["vocab"], key=lambda piece: (piece.startswith("["), described["model"]["vocab"][piece]))
    described["model"]["vocab"] = {piece: i for i, piece in enumerate(order)}
    for token in described["added_tokens"]:
        token["id"] = order.index(token["content"])
    for piece in described["post_processor"]["special_tokens"].values():
        piece["ids"] = [order.index(piece["id"])]
    out.mkdir()
    (out / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "en-zh.jsonl"
    words, rng = ["film", "day", "house", "song", "good", "bad"], np.random.default_rng(0)
    rows = [
        {"a": f"{words[i % 6]} {words[i // 3]} {words[3]}", "b": "".join(rng.choice(list(CHARACTERS), 2 + i % 4))}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def two(pairs: Path, source: Path, target: Path, **more: Any) -> FinetuneRecipe:
    described = {"tokenizer": str(source), "model": {"kind": "t5", "dim": 32, "layers": 1, "heads": 2, "dropout": 0.0}}
    task = {"tokenizer": str(target), "label_smoothing": 0.0, **more.pop("task", {})}
    return recipe(pairs, task, **({} if "checkpoint" in more else described), **more)


def test_two_vocabularies_from_the_recipe_to_the_export(
    tokenizer_dir: Path, other_tokenizer: Path, two_languages: Path, tmp_path: Path
) -> None:
    """Eight pairs are memorised; the directory alone is enough to read and write them, and to train on."""
    target = tmp_path / "target"
    shutil.copytree(other_tokenizer, target)
    training = {"updates": 100, "batch": 8, **runs.TRAINING}
    made = two(two_languages, tokenizer_dir, target, training=training, every={"evaluate": "50 updates"})
    step = Path(finetune(made, tmp_path / "run")["best"])
    shutil.rmtree(target)
    learner = open_model(step).learner
    assert isinstance(learner, Generate) and learner.tokenizer is not None
    zh, en = learner.target, learner.vocabulary
    assert zh == vocabulary_of(open_tokenizer(other_tokenizer)) and (zh.cls, zh.sep, zh.pad) != (en.cls, en.sep, en.pad)
    assert (
        learner.head.tokens is not None
        and learner.head.tokens.weight.shape == (zh.size, 32) != learner.encoder.tokens.weight.shape
    )
    assert evaluate(step, two_languages)["metrics"]["chrf"] == pytest.approx(100)
    predict(step, two_languages, out=tmp_path / "out.jsonl")
    right = [row["b"] for row in lines(two_languages)]
    assert [line["written"].replace(" ", "") for line in lines(tmp_path / "out.jsonl")] == right
    predict(step, two_languages, out=tmp_path / "drawn.jsonl", sampling=Sampling(top_k=1))
    assert (tmp_path / "drawn.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    batch = learner.collate(learner.encode([Row({"a": "film", "b": "好书"}, 1, "")], open_model(step).tokenizer))
    ids = learner.tokenizer.encode(["好书"]).ids.tolist()
    assert batch.targets["given"].tolist() == [[zh.cls, *ids]] and batch.targets["labels"].tolist() == [*ids, zh.sep]
    assert batch.inputs.ids[0, 0] == en.cls

    onward = recipe(two_languages, checkpoint=str(step), optimizer={"kind": "adamw", "lr": 1e-9, "weight_decay": 0})
    again = Path(finetune(onward, tmp_path / "onward")["best"])
    old, new = (read_tensors(path / "model.safetensors") for path in (step, again))
    assert old.keys() == new.keys() and all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    assert (again / "target_tokenizer" / "tokenizer.json").read_bytes() == (other_tokenizer / "tokenizer.json").read_bytes()

    described = export.run(step, ["hf"], tmp_path / "hf")
    assert described["loads_with"] is None and "two" in json.loads((tmp_path / "hf" / "config.json").read_bytes())["note"]
    assert export.run(step, ["hf"], tmp_path / "encoder", part="encoder")["loads_with"] == "T5EncoderModel"
    file = step / "target_tokenizer" / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with pytest.raises(DataError, match="changed since"):
        open_model(step)


def test_two_vocabularies_are_resumed_exactly_and_one_is_as_before(
    tokenizer_dir: Path,
    other_tokenizer: Path,
    two_languages: Path,
    pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    every = {"log": "4 updates", "evaluate": "3 updates", "save": "1 updates"}
    made = two(two_languages, tokenizer_dir, other_tokenizer, training={"updates": 6, "batch": 3, **runs.TRAINING}, every=every)
    finetune(made, tmp_path / "whole")
    for update in (2, 5):
        runs.go_until(made, tmp_path / "pieces", update)
    finetune(made, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))
    inputs = json.loads((tmp_path / "whole" / "manifest.json").read_bytes())["inputs"]
    assert inputs["task.tokenizer"] == open_tokenizer(other_tokenizer).fingerprint

    plain = recipe(
        pairs, tokenizer=str(tokenizer_dir), model={"kind": "lstm", "dim": 16}, training={"updates": 1, **runs.TRAINING}
    )
    step = Path(finetune(plain, tmp_path / "one")["best"])
    assert not (step / "target_tokenizer").exists() and "target_vocabulary" not in json.loads((step / "config.json").read_bytes())
    assert "task.tokenizer" not in json.loads((tmp_path / "one" / "manifest.json").read_bytes())["inputs"]
    assert "head.tokens.weight" not in read_tensors(step / "model.safetensors")
    swapped = two(two_languages, tokenizer_dir, other_tokenizer, checkpoint=str(step))
    with pytest.raises(UsageError, match="checkpoint's own vocabulary") as error:
        preflight.finetune(swapped, tmp_path / "x", False, False)
    assert error.value.where == "task.tokenizer"
    preflight.finetune(
        two(two_languages, tokenizer_dir, other_tokenizer, checkpoint=str(step), task={"decoder": {"layers": 1}}),
        tmp_path / "x",
        False,
        False,
    )
    finetune(two(two_languages, tokenizer_dir, tokenizer_dir, training={"updates": 1, **runs.TRAINING}), tmp_path / "english")
    assert "tokens of the targets are unknown" in capsys.readouterr().err
    with pytest.raises(UsageError, match="expected a tokenizer directory"):
        preflight.finetune(two(two_languages, tokenizer_dir, tmp_path / "none"), tmp_path / "x", False, False)
