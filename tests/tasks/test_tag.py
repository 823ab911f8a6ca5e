"""Tags: their schemes against seqeval, where pieces and units meet, windows, and the way from files to predictions."""

import csv
import json
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB2, IOBES

from encoderkit.config import validate
from encoderkit.data.conll import joined
from encoderkit.data.labelled import Row, read_rows
from encoderkit.errors import DataError, UserError
from encoderkit.learner import Vocabulary
from encoderkit.models.crf import together
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks.config import TagConfig
from encoderkit.tasks.schemes import Entity, entities, outputs, recognise, tags
from encoderkit.tasks.slots import INSIDE, NOTHING, OVERLAP, SHARED, find_slots, fit, spread, unfit, words
from encoderkit.tasks.tag import Tag
from encoderkit.tasks.texts import Tokens
from encoderkit.text.config import TokenizerConfig, TokenizerKind
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.text.training import train
from encoderkit.training.config import AdamWConfig, ScheduleConfig
from encoderkit.training.evaluate import evaluate as measure
from encoderkit.training.evaluate import outputs as observe
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.conftest import BAD, GOOD, THINGS
from tests.training.runs import KINDS, encoder, plan

NASTY = st.lists(
    st.lists(st.sampled_from([f"{p}-{k}" for p in "BIES" for k in "xy"] + ["O"] * 4), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)
MODEL = {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 64}
TEXTS = ["I live in New York-City since 2019, café.", "他2019年在北京大学读书 ABC", "two  spaces, naïve 😀 ", "서울에서 살아요"]


def f1(gold: list[list[str]], given: list[list[str]], **how: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no entities: seqeval talks about it
        return float(seqeval.f1_score(gold, given, zero_division=0, **how))


def learner(labels: list[str], kind: str = "lstm", length: int = 16, size: int = 40, **settings: Any) -> Tag:
    torch.manual_seed(1)
    config = TagConfig.model_validate({"dropout": 0.0, **settings})
    return Tag(config, encoder(kind), Vocabulary(size, 0, 1, 2, 3, 4), length, labels)


SCORING = learner(outputs(["x", "y"], "bioes"))


def tokenizer_of(kind: TokenizerKind = "wordpiece") -> Tokenizer:
    return Tokenizer(train(iter(TEXTS * 3), TokenizerConfig(kind=kind, vocab_size=300, min_frequency=1)).files)


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(value, i, "t.jsonl") for i, value in enumerate(values, start=1)]


# schemes


@given(NASTY)
@settings(max_examples=50)
def test_tags_of_every_sort_are_read_as_seqeval_reads_them(rows: list[list[str]]) -> None:
    for row in rows:
        assert sorted((one.label, one.start, one.end - 1) for one in entities(row)) == sorted(get_entities(row))
    other = [row[::-1] for row in rows]
    assert score(rows, other)["f1"] == pytest.approx(f1(rows, other))


def score(gold: list[list[str]], given: list[list[str]]) -> dict[str, float]:
    task, found = SCORING, []
    for side in (gold, given):
        array = np.empty(len(side), dtype=object)
        for i, row in enumerate(side):
            array[i] = frozenset(entities(row))
        found.append(array)
    values = task.score(*found)
    each = {name: one["f1"] for name, one in task.details(*found)["per_class"].items()}
    return {**values, **each}


@given(NASTY, st.sampled_from([("bio", IOB2, "BI"), ("bioes", IOBES, "BIES"), ("bioes", BILOU, "BILU")]))
@settings(max_examples=50)
def test_what_is_written_is_legal_and_counts_the_same_where_seqeval_is_strict(rows: list[list[str]], how: Any) -> None:
    scheme, strict, letters = how
    rename = dict(zip("BIES", letters.ljust(4), strict=True))

    def written(tokens: list[str]) -> list[str]:
        found = tags(entities(tokens), len(tokens), scheme)
        return [tag if tag == "O" else rename[tag[0]] + tag[1:] for tag in found]

    gold, given = [written(row) for row in rows], [written(row[::-1]) for row in rows]
    assert [entities(row) for row in gold] == [entities(row) for row in rows]
    found = score(gold, given)
    assert found["f1"] == pytest.approx(f1(gold, given, mode="strict", scheme=strict))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report: Any = seqeval.classification_report(gold, given, output_dict=True, zero_division=0, mode="strict", scheme=strict)
    assert all(found[name] == pytest.approx(report[name]["f1-score"]) for name in "xy" if name in report)


def test_schemes_are_recognised() -> None:
    for scheme, used in {
        "bio": ["O", "B-x", "I-x", "I-y"],
        "bioes": ["B-x", "M-x", "E-x", "S-y", "O"],
        "plain": ["NOUN", "VERB", "O", "S"],
    }.items():
        assert recognise(used) == scheme
    assert recognise(["O", "I-x"]) == "bio" and recognise(["B_x", "L_x", "U_y"]) == "bioes" and recognise("BMES") == "bioes"
    assert entities(list("BEBMES")) == [Entity(0, 2, "_"), Entity(2, 5, "_"), Entity(5, 6, "_")]
    assert entities(["I-x", "I-x", "B-x", "I-y"]) == [Entity(0, 2, "x"), Entity(2, 3, "x"), Entity(3, 4, "y")]  # IOB1
    with pytest.raises(ValueError, match='the tag "X-y" is neither O nor'):
        entities(["B-x", "X-y"])


# units and pieces

TOKENS = st.lists(
    st.sampled_from(["New", "York", "-", "café", "北京", "大", "2019", "\x01", " ", "", "naïve", "서울에서", "😀", "e\u0301x"]),
    max_size=12,
)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "char", "word"])
def test_every_unit_has_a_place_or_is_counted(kind: TokenizerKind) -> None:
    tokenizer = tokenizer_of(kind)

    @given(TOKENS, st.data())
    @settings(max_examples=40)
    def check(tokens: list[str], data: st.DataObject) -> None:
        text, units = joined(tokens)
        assert [text[a:b] for a, b in units] == tokens
        slots = find_slots(text, units, tokenizer.spans([text]).characters)
        assert (
            (np.diff(slots.places) > 0).all() and (slots.first <= slots.last).all() and (slots.first[1:] > slots.last[:-1]).all()
        )
        starts = sorted(data.draw(st.sets(st.integers(0, len(tokens)), min_size=2))) if len(tokens) > 1 else []
        gold = {Entity(a, b, "x") for a, b in pairwise(starts)}
        fitted, lost = fit(gold, slots)
        assert unfit(fitted, slots) <= gold and len(fitted) + sum(lost.values()) == len(gold)
        held = {i for a, b in zip(slots.first, slots.last, strict=True) for i in range(a, b + 1)}
        assert all(tokens[i].strip("\x01 ") == "" for i in set(range(len(tokens))) - held)
        assert len(spread(np.arange(len(slots.places)), slots, len(tokens))) == len(tokens)

    check()


def test_tokens_are_read_as_the_text_that_they_were() -> None:
    """No spaces in Chinese, nor between characters; and the ids of that text, though units share a piece."""
    assert (
        joined(["他", "2", "0", "1", "9", "年"])[0] == "他2019年"
        and joined(["北京", "大学", "ABC", "News"])[0] == "北京大学ABC News"
    )
    assert joined(["I", "?", "a"])[0] == "I ? a" and joined(list("서 울"))[0] == "서 울"
    assert [TEXTS[0][a:b] for a, b in words("naïve e\u0301x, 北京")] == [
        TEXTS[0][a:b] for a, b in [(0, 5), (6, 9), (9, 10), (11, 12), (12, 13)]
    ]
    tokenizer, task = tokenizer_of(), learner(["O", "B-x", "I-x"], size=300)
    row = {"tokens": list("他2019年"), "tags": ["O", "B-x", "I-x", "B-x", "I-x", "O"]}
    [example] = task.encode(rows(row), tokenizer)
    assert tokenizer.decode(example.tokens.ids).replace(" ", "") == "他2019年" and len(example.places) == 3
    assert task.lost([example]) == {INSIDE: 2}


def test_what_is_lost_is_counted_and_stays_a_miss() -> None:
    tokenizer, text = tokenizer_of(), "I live in New York-City."
    task = learner(["O", "B-x", "I-x"], size=300, text="text")
    given = [
        [10, 18, "x"],
        {"start": 10, "end": 23, "label": "x"},
        {"start_offset": 2, "end_offset": 7, "label": "x"},
        [20, 23, "x"],
    ]
    examples = task.encode(rows({"text": text, "entities": given}, {"text": " I ", "entities": {"entities": []}}), tokenizer)
    assert task.lost(examples) == {OVERLAP: 1, INSIDE: 1}
    perfect = {"emissions": [np.eye(3)[example.targets] for example in examples]}
    assert task.decide(examples, perfect)[0] == {Entity(10, 23, "x"), Entity(2, 6, "x")}
    assert task.metrics(examples, perfect)["recall"] == 0.5
    p, right = task.confidence(examples, perfect)
    assert len(p) == sum((example.targets > 0).sum() for example in examples if example.targets is not None) and right.all()
    words_of = learner(["n", "v"], size=300)
    plain = words_of.encode(rows({"tokens": ["2019", "\x01", "I"], "tags": ["n", "v", "n"]}), tokenizer)
    assert words_of.lost(plain) == {NOTHING: 1}
    [decided] = words_of.decide(plain, {"emissions": [np.eye(2)[example.targets] for example in plain]})
    assert decided.tolist() == [0, 0, 0] and words_of.metrics(plain, {"emissions": [np.eye(2)[[0, 0]]]})["accuracy"] == 2 / 3
    p, right = words_of.confidence(plain, {"emissions": [np.array([[0.0, 2.0], [3.0, 0.0]])]})
    assert p == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-3))]) and right.tolist() == [False, True]
    shared = words_of.encode(rows({"tokens": list("他2019"), "tags": list("nnvnn")}), tokenizer)
    assert words_of.lost(shared) == {SHARED: 1}


def test_a_text_without_a_character() -> None:
    task = learner(["O", "B-x", "I-x"], size=300, tokens=None, tags=None, text="text", spans="spans")
    [first, second] = task.encode(rows({"text": "", "spans": []}, {"text": "né", "spans": [[0, 2, "x"]]}), tokenizer_of())
    assert len(first.places) == 0 and first.gold == frozenset() and second.units == 2


# windows and batches


def test_a_long_text_does_not_widen_the_others() -> None:
    cuts = list(together([1] * 300 + [500] * 300 + [1 << 20]))
    assert cuts == [(0, 256), (256, 512), (512, 600), (600, 601)] and not list(together([]))


@pytest.mark.parametrize(("overlap", "shared"), [(0, 0), (0.25, 2), (6, 6), ("90%", 9)])
def test_each_slot_is_decided_where_most_is_seen_around_it(overlap: float | str, shared: int) -> None:
    tokenizer = tokenizer_of()
    task = learner(["O", "B-x", "I-x"], length=12, size=300, overlap=overlap)
    tokens = ["I", "live", "in", "New", "York", "since", "2019", ",", "two", "spaces", "in", "New", "York", "I", "live"] * 3
    examples = task.encode(rows({"tokens": tokens, "tags": ["B-x"] * len(tokens)}), tokenizer)
    ids = tokenizer.spans([" ".join(tokens)]).ids
    assert sum(len(e.tokens.ids) - e.tokens.special - e.tokens.shared for e in examples) == len(ids), "each piece is counted once"
    assert sum(len(example.places) for example in examples) == len(tokens) and len(examples) > 3
    assert [e.edges for e in examples] == [(e is examples[0], e is examples[-1]) for e in examples]
    starts = [0]
    for before in examples[:-1]:
        starts.append(starts[-1] + len(before.tokens.ids) - 2 - shared)
    spans = [(start, start + len(e.tokens.ids) - 2) for start, e in zip(starts, examples, strict=True)]

    def context(piece: int, span: tuple[int, int]) -> float:
        left = piece - span[0] if span[0] else np.inf
        return min(left, span[1] - 1 - piece if span[1] < len(ids) else np.inf)

    for example, span in zip(examples, spans, strict=True):
        for place in example.places:
            piece = int(place) - 1 + span[0]
            assert example.tokens.ids[place] == ids[piece]
            assert context(piece, span) == max(context(piece, other) for other in spans if other[0] <= piece < other[1])


@pytest.mark.parametrize("head", ["softmax", "crf"])
@pytest.mark.parametrize("kind", ["bert", "lstm", "cnn"])
def test_batch_order_and_padding_change_nothing(kind: str, head: str) -> None:
    tokenizer = tokenizer_of()
    task = learner(outputs(["x"], "bioes"), kind, 9, 300, head=head).eval()
    if task.crf is not None:
        for parameter in task.crf.parameters():
            torch.nn.init.normal_(parameter)
    tokens = ["I", "live", "in", "\x01", "New", "York", "2019"]
    examples = task.encode(
        rows(
            *({"tokens": (tokens * 4)[i : i + 2 + 3 * i], "tags": ["S-x"] * (2 + 3 * i)} for i in range(6)),
            {"tokens": ["\x01"], "tags": ["O"]},
        ),
        tokenizer,
    )
    whole = observe(task, examples, [range(len(examples))], "cpu", "fp32")
    alone = observe(task, examples, [[i] for i in reversed(range(len(examples)))], "cpu", "fp32")
    for one, other in zip(whole["emissions"], alone["emissions"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert list(task.decide(examples, whole)) == list(task.decide(examples, alone)) and len(task.decide(examples, whole)) == 7
    losses = [measure(task, examples, batch, "cpu", "fp32")["loss"] for batch in (1, 3, 64)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    batch = task.collate(examples)
    assert float(task(batch.inputs, batch.targets)["tag"].detach()) / batch.counts["tag"] == pytest.approx(losses[0], rel=1e-5)
    slots = np.bincount([example.row for example in examples], [len(example.places) for example in examples])
    assert (task.losses(examples, whole) * slots).sum() / slots.sum() == pytest.approx(losses[0], rel=1e-5)
    assert task.losses(examples, whole)[6] == 0, "nothing is left of the row"


def memorised(kind: str, head: str) -> None:
    """Tags that nothing but memory can know."""
    rng, names = np.random.default_rng(3), outputs(["x", "y"], "bio")
    task, examples = learner(names, kind, head=head), []
    for i in range(8):
        size = int(rng.integers(4, 10))
        target = np.array(
            [names.index(tag) for tag in tags([Entity(*sorted(rng.choice(size, 2, False)), "xy"[i % 2])], size, "bio")]
        )
        example = task.probe(learner_tokens(rng, size))
        examples.append(example._replace(targets=target, gold=frozenset(entities([names[t] for t in target])), row=i))
    rate = {"deberta": 3e-3, "lstm": 2e-2, "gru": 2e-2, "rnn": 1e-2}.get(kind, 5e-3)
    optimizers = build_optimizers(task, AdamWConfig(lr=rate, weight_decay=0.0), torch.float32)
    *_, last = updates(task, optimizers, examples, plan(160, 8, clip=1.0, schedule=ScheduleConfig(kind="linear", warmup=0)))
    assert last.loss < 0.1 and measure(task, examples, 3, "cpu", "fp32")["f1"] == 1


def learner_tokens(rng: np.random.Generator, size: int) -> Tokens:
    return Tokens(rng.integers(5, 40, size), None, 0)


@pytest.mark.parametrize(("kind", "head"), [*((kind, "softmax") for kind in KINDS), ("lstm", "crf"), ("bert", "crf")])
def test_eight_sequences_are_memorised(kind: str, head: str) -> None:
    memorised(kind, head)


# files, stages, errors


def sentence(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """`the film` is a thing, `good` praise, `dull` blame."""
    tokens: list[str] = []
    names: list[str] = []
    for _ in range(rng.integers(1, 4)):
        good = bool(rng.integers(2))
        tokens += ["the", str(rng.choice(THINGS)), "was", str(rng.choice(GOOD if good else BAD)), "and"]
        names += ["B-thing", "I-thing", "O", "B-good" if good else "B-bad", "O"]
    return [*tokens[:-1], "."], names


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows as CoNLL, with a column between, and as texts with spans; `dev` as .jsonl."""
    folder, rng = tmp_path_factory.mktemp("tagged"), np.random.default_rng(0)
    made = [sentence(rng) for _ in range(90)]
    conll = ["-DOCSTART- -X- O\n\n", *("".join(f"{t} _ {n}\n" for t, n in zip(*one, strict=True)) + "\n" for one in made[:60])]
    (folder / "train.conll").write_text("".join(conll), encoding="utf-8")
    (folder / "train.txt").write_text("".join(conll).replace(" ", "\t"), encoding="utf-8")
    with open(folder / "dev.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"tokens": t, "tags": n}) + "\n" for t, n in made[60:])
    for name, part in (("spans-train", made[:60]), ("spans-dev", made[60:])):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for tokens, names in part:
                text, places = joined(tokens)
                found = [[int(places[a, 0]), int(places[b - 1, 1]), label] for a, b, label in entities(names)]
                file.write(json.dumps({"text": text, "entities": found}) + "\n")
    return {path.name: path for path in folder.iterdir()}


def recipe(tokenizer: Path, train: Path, dev: Path, model: dict[str, Any] = MODEL, **more: Any) -> FinetuneRecipe:
    return validate(
        FinetuneRecipe,
        {
            "tokenizer": str(tokenizer),
            "model": model,
            "data": {"train": str(train), "dev": str(dev), "length": 12},
            "task": {"kind": "tag", **more},
            "optimizer": {"kind": "adamw", "lr": 1e-2},
            "training": {"updates": 40, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
        },
        "recipe",
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_whole_way_from_conll(tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path) -> None:
    """Trained in windows, evaluated as seqeval does, predicted with exact offsets, and read by transformers."""
    finetune(recipe(tokenizer_dir, tagged["train.conll"], tagged["dev.jsonl"]), tmp_path / "run")
    step = find_step(tmp_path / "run")
    result = evaluate(step, tagged["dev.jsonl"], "fp32", against=step)
    assert result["metrics"]["f1"] > 0.9 and result["lost"] == {} and result["baselines"]["commonest"]["f1"] > 0.3
    assert result["against"]["differences"]["f1"]["value"] == 0 and result["truncated"]["rows"] == 0
    by_kind = {part["slice"]: part["rows"] for part in result["slices"]["label"]}
    held = [{tag.partition("-")[2] for tag in row["tags"]} for row in lines(tagged["dev.jsonl"])]
    assert by_kind == {kind: sum(kind in kinds for kinds in held) for kind in ("bad", "good", "thing")}
    predict(step, tagged["dev.jsonl"], out=tmp_path / "out.jsonl", precision="fp32")
    gold, found = lines(tagged["dev.jsonl"]), lines(tmp_path / "out.jsonl")
    assert result["metrics"]["f1"] == pytest.approx(f1([row["tags"] for row in gold], [row["tags"] for row in found]))
    other = [{**row, "tags": [tag.replace("I-", "M-") for tag in row["tags"]]} for row in gold]
    (tmp_path / "bmes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other), encoding="utf-8")
    evaluate(step, tmp_path / "bmes.jsonl", "fp32", errors=tmp_path / "errors.jsonl")
    for row in lines(tmp_path / "errors.jsonl"):  # both in the scheme of the model
        assert row["gold"] == gold[row["line"] - 1]["tags"] and row["predicted"] == found[row["line"] - 1]["tags"]
    text = "  the film\twas good  and the garden was sad ."
    predict(step, None, [[text], ["\x01"]], tmp_path / "text.jsonl", precision="fp32")
    first, empty = lines(tmp_path / "text.jsonl")
    assert [(one["text"], one["label"]) for one in first["entities"]] == [
        ("the film", "thing"),
        ("good", "good"),
        ("the garden", "thing"),
        ("sad", "bad"),
    ] and empty["entities"] == []
    assert first["text"] == text and all(text[one["start"] : one["end"]] == one["text"] for one in first["entities"])
    known = [row.values for row in read_rows(str(tagged["train.conll"]), ["tokens", "tags"])[:3]]
    almost = [{**row, "tokens": [*row["tokens"][:-1], f"{row['tokens'][-1]}!"]} for row in known]
    (tmp_path / "almost.jsonl").write_text("".join(json.dumps(row) + "\n" for row in almost), encoding="utf-8")
    assert evaluate(step, tmp_path / "almost.jsonl", "fp32")["overlap"]["near"] == 3  # as texts, not token by token
    (tmp_path / "spaced.jsonl").write_text('{"tokens": "the film was good."}\n', encoding="utf-8")
    predict(step, tmp_path / "spaced.jsonl", out=tmp_path / "spaced.out.jsonl", precision="fp32")
    [spaced] = lines(tmp_path / "spaced.out.jsonl")  # a column of tokens, as in training and evaluating
    assert spaced["tokens"] == ["the", "film", "was", "good."] and len(spaced["tags"]) == 4
    predict(step, tagged["train.conll"], out=tmp_path / "out.csv", form="csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\n") == 61
    exported = export.run(step, ["hf"], tmp_path / "dist")
    assert exported["parity"]["max_abs_diff"] < 1e-5 and exported["loads_with"] == "AutoModelForTokenClassification"
    assert json.loads((tmp_path / "dist" / "config.json").read_bytes())["id2label"]["0"] == "O"


def test_the_whole_way_from_spans(
    tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"kind": "lstm", "dim": 32, "dropout": 0.0}
    made = recipe(
        tokenizer_dir, tagged["spans-train.jsonl"], tagged["spans-dev.jsonl"], model, text="text", head="crf", scheme="bioes"
    )
    more = {"optimizer": AdamWConfig(lr=4e-2), "training": made.training.model_copy(update={"updates": 60})}
    finetune(made.model_copy(update=more), tmp_path / "run")
    step = find_step(tmp_path / "run")
    result = evaluate(step, tagged["spans-dev.jsonl"], "fp32")
    assert result["metrics"]["f1"] > 0.9 and result["baselines"]["commonest_in_text"]["f1"] > 0.3
    predict(step, tagged["spans-dev.jsonl"], out=tmp_path / "out.jsonl", precision="fp32")
    hit = [{(e["start"], e["end"], e["label"]) for e in row["entities"]} for row in lines(tmp_path / "out.jsonl")]
    gold = [{tuple(e) for e in row["entities"]} for row in lines(tagged["spans-dev.jsonl"])]
    both, given, right = (sum(map(len, s)) for s in ([a & b for a, b in zip(hit, gold, strict=True)], hit, gold))
    assert result["metrics"]["f1"] == pytest.approx(2 * both / (given + right))
    assert export.run(step, ["hf"], tmp_path / "dist")["loads_with"] is None
    assert "no token classifier with a CRF" in capsys.readouterr().err


def test_models_of_other_schemes_are_compared_by_their_entities(
    tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path
) -> None:
    for name, scheme, count in (("one", "bio", 40), ("other", "bioes", 4), ("plain", "plain", 1)):
        made = recipe(tokenizer_dir, tagged["train.conll"], tagged["dev.jsonl"], scheme=scheme)
        training = made.training.model_copy(update={"updates": count})
        finetune(made.model_copy(update={"training": training}), tmp_path / name)
    one, other, plain = (find_step(tmp_path / name) for name in ("one", "other", "plain"))
    alone = evaluate(other, tagged["dev.jsonl"], "fp32")
    both = evaluate(one, tagged["dev.jsonl"], "fp32", against=other)
    difference = both["metrics"]["f1"] - alone["metrics"]["f1"]
    assert difference != 0 and both["against"]["differences"]["f1"]["value"] == pytest.approx(difference)
    with pytest.raises(UserError, match="other tasks or other labels"):
        evaluate(one, tagged["dev.jsonl"], "fp32", against=plain)


def test_a_model_of_another_task_is_no_rival(
    classifier_dir: Path, tokenizer_dir: Path, tagged: dict[str, Path], labelled: dict[str, Path], tmp_path: Path
) -> None:
    """Told before its columns are looked for in the data."""
    made = recipe(tokenizer_dir, tagged["train.conll"], tagged["dev.jsonl"])
    finetune(made.model_copy(update={"training": made.training.model_copy(update={"updates": 1})}), tmp_path / "tagger")
    with pytest.raises(UserError, match="other tasks or other labels"):
        evaluate(find_step(classifier_dir), labelled["dev"], "fp32", against=find_step(tmp_path / "tagger"))


def test_words_in_place_of_a_text_are_told_how_to_name(tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(tokenizer_dir, tagged["train.conll"], tagged["dev.jsonl"])
    texts = made.task.model_copy(update={"text": "text", "spans": "entities", "tokens": None, "tags": None})
    with pytest.raises(UserError) as caught:
        finetune(made.model_copy(update={"task": texts}), tmp_path / "run")
    settings = re.findall(r"--set (task\.\w+=(?:null|NAME))", str(caught.value))
    assert settings[1:] == ["task.text=null", "task.spans=null", "task.tokens=NAME", "task.tags=NAME"]


def test_a_line_of_tokens_and_one_of_tags(tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path) -> None:
    """Two files, as slot filling has them (seq.in, seq.out), or two columns of a .csv: the same weights as from lists."""
    rows = [{"tokens": one["tokens"], "tags": one["tags"]} for one in lines(tagged["dev.jsonl"])]
    made = recipe(tokenizer_dir, tagged["dev.jsonl"], tagged["dev.jsonl"])
    expected = finetune(made, tmp_path / "lists")
    files = {"tokens": str(tmp_path / "seq.in"), "tags": str(tmp_path / "seq.out")}
    for column, path in files.items():
        Path(path).write_text("".join(" ".join(row[column]) + "\n" for row in rows), encoding="utf-8")
    with open(tmp_path / "rows.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["tokens", "tags"], *([" ".join(row["tokens"]), "\t".join(row["tags"])] for row in rows)])
    beside = validate(FinetuneRecipe, made.model_dump() | {"data": {"train": files, "dev": files, "length": 12}}, "recipe")
    of_csv = recipe(tokenizer_dir, tmp_path / "rows.csv", tmp_path / "rows.csv")
    for name, one in (("beside", beside), ("csv", of_csv)):
        assert finetune(one, tmp_path / name)["dev"] == expected["dev"]
    found = evaluate(find_step(tmp_path / "lists"), tmp_path / "rows.csv", "fp32")
    assert found["metrics"] == evaluate(find_step(tmp_path / "lists"), tagged["dev.jsonl"], "fp32")["metrics"]


def test_plain_tags_seeds_and_txt(tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path) -> None:
    made = recipe(tokenizer_dir, tagged["train.txt"], tagged["dev.jsonl"], scheme="plain")
    result = finetune(made.model_copy(update={"seeds": [1, 2]}), tmp_path / "run")
    assert result["dev"]["accuracy"] > 0.9 and {"accuracy", "macro_f1"} <= result["intervals"]["dev"].keys()
    found = evaluate(find_step(tmp_path / "run"), tagged["dev.jsonl"], "fp32")
    assert found["baselines"]["commonest"]["accuracy"] > 0.9 and found["metrics"]["per_class"]["B-thing"]["support"] > 0
    predict(find_step(tmp_path / "run"), None, [["the film was good."]], tmp_path / "out.csv", form="csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").split("\n")[0].strip() == "text,tokens,tags"


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ({}, '{"tokens": ["a", "b"], "tags": ["O"]}', r'd\.jsonl:1: "tokens" has 2 entries and "tags" 1; each token has one tag'),
        ({}, '{"tokens": ["a", "b"], "tags": ["B-x", "X-x"]}', r'd\.jsonl:1: the tag "X-x" is neither O nor begins'),
        ({}, '{"tokens": "a b", "tags": ["O"]}', r'd\.jsonl:1: "tokens" has 2 entries and "tags" 1; each token has one tag'),
        (
            {},
            """{"tokens": "['a']", "tags": "O"}""",
            r'd\.jsonl:1: "tokens" should be a list of texts, or a text with spaces between them, found "\[\'a\'\]"',
        ),
        (
            {},
            '{"tokens": ["a", "b"], "tags": ["O", "B-org"]}',
            r'd\.jsonl:1: the label "org" was not seen in training; there are: bad',
        ),
        ({"scheme": "plain"}, '{"tokens": ["a"], "tags": ["N"]}', r'd\.jsonl:1: the tag "N" was not seen in training'),
        (
            {"text": "text"},
            '{"text": "ab", "entities": [[1, 3, "good"]]}',
            r'd\.jsonl:1: the entity "\[1, 3, \'good\'\]" does not lie',
        ),
        ({"text": "text"}, '{"text": "ab", "entities": [[0, "x"]]}', r"d\.jsonl:1: an entity in .* is \[start, end, label\]"),
        ({"text": "text"}, '{"text": "a  b", "entities": [[1, 3, "bad"]]}', r"holds nothing but white space"),
        ({"text": "text"}, '{"text": "ab", "entities": null}', r'd\.jsonl:1: "entities" should be a list of'),
    ],
)
def test_rows_that_will_not_do(
    task: dict[str, Any], content: str, message: str, tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "d.jsonl").write_text(content + "\n", encoding="utf-8")
    made = recipe(tokenizer_dir, tagged["spans-train.jsonl" if task.get("text") else "train.conll"], tmp_path / "d.jsonl", **task)
    with pytest.raises(DataError, match=message):
        finetune(made, tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a O\nb\n", r"d\.conll:2: has 1 columns, and the lines before it 2"),
        ("a\tO\nb\t\n", r"d\.conll:2: has 2 columns, one of which is empty,"),
        ("a\nb\n", r'd\.conll:1: there is no column "tags"; the columns are "tokens", "1"'),
        ("\n\n", r"d\.conll: holds no row"),
    ],
)
def test_files_that_will_not_do(content: str, message: str, tokenizer_dir: Path, tagged: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "d.conll").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        finetune(recipe(tokenizer_dir, tagged["train.conll"], tmp_path / "d.conll"), tmp_path / "run")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"text": "a", "tokens": "b"}, "give tokens and tags, or text and spans"),
        ({"spans": "a"}, "give"),
        ({"text": "a", "scheme": "plain"}, "bio or bioes"),
    ],
)
def test_settings_that_do_not_gotogether(task: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        recipe(tmp_path, tmp_path, tmp_path, **task)
