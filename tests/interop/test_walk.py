"""The walk of a practitioner: a checkpoint is imported, says what it says there, is fine-tuned, and goes back."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import sentencepiece
import torch
from torch.nn.functional import cross_entropy

transformers = pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")  # with which transformers reads models of sentencepiece

from encoderkit.config import validate  # noqa: E402
from encoderkit.errors import DataError, UsageError  # noqa: E402
from encoderkit.inference import open_model, start  # noqa: E402
from encoderkit.learner import Export  # noqa: E402
from encoderkit.models.inputs import Inputs  # noqa: E402
from encoderkit.recipe import FinetuneRecipe  # noqa: E402
from encoderkit.stages import export, import_model, minimal_pairs  # noqa: E402
from encoderkit.stages.finetune import finetune  # noqa: E402
from encoderkit.stages.predict import predict  # noqa: E402
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer  # noqa: E402
from tests.interop.checkpoints import HEADS, LABELS, SHAPES, TEXTS, UNIGRAM, published, tokenizer_files  # noqa: E402

ROBERTAS = ("Roberta", "XLMRoberta", "Camembert")
KOREAN = unicodedata.normalize("NFD", "한국어")
ODD = [
    "\u1e9b\u0323", "ｶﾞｷﾞ", "ﾊﾟ", "か\u3099", KOREAN, "e\u0323\u0302", "e\u0302\u0323", "½\u0301", "a\u0300\u0301\u0302",
]  # fmt: skip
"""Several characters that sentencepiece's table has as one, and marks: tokenizers does otherwise, and so transformers."""


def without_odd(text: str) -> str:
    """What sentencepiece and transformers read alike."""
    for odd in ODD:
        text = text.replace(odd, "")
    return text


WAYS = [(family, shape, head) for family, shapes in SHAPES.items() for shape in shapes for head in HEADS[family]]


def imported(source: Path, out: Path, unused: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    """The model; no key of the checkpoint is left but those."""
    assert set(import_model.run(str(source), out)["unused"]) == unused
    return open_model(out)


def laid(family: str, model: Any, side: str) -> tuple[Inputs, dict[str, torch.Tensor]]:
    """Random tokens, the longest row as long as the model can read; padded on either side, in segments where there are some."""
    width = 62 if family in ROBERTAS else 64
    mask = torch.arange(width) < torch.tensor([width, 1, width // 2])[:, None]
    mask = mask.flip(1) if side == "left" else mask
    pad = model.config.pad_token_id
    ids = torch.randint(10, 60, mask.shape, generator=torch.Generator().manual_seed(2)).masked_fill(~mask, pad)
    from_first = (mask.cumsum(1) - 1).clamp(min=0)
    # Where rows are padded on the left, families with a table of positions count from the first place; these do not.
    positions = from_first if family in (*ROBERTAS, "GPT2", "XLNet") else torch.arange(width).expand_as(ids)
    arguments = {"input_ids": ids, "attention_mask": mask.long()}
    segments = {"XLNet": 3}.get(family, getattr(model.config, "type_vocab_size", 0))
    types = (torch.arange(width) * segments // width).expand_as(ids) if segments > 1 else None
    arguments |= {} if types is None else {"token_type_ids": types}
    arguments |= {"position_ids": positions} if family == "GPT2" else {}
    return Inputs(ids, mask.long(), positions, types), arguments


@pytest.mark.parametrize(("family", "shape", "head"), WAYS)
@torch.no_grad()
def test_an_import_says_the_same(family: str, shape: str, head: str, tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", family, shape, head)
    pooled = head == "Model" and family in ("Bert", "Albert", *ROBERTAS)  # nothing reads it, and it says so
    pooler = {name for name in theirs.state_dict() if name.startswith("pooler")} if pooled else set()
    model = imported(tmp_path / "hf", tmp_path / "ours", pooler)
    found = model.learner.exported()
    assert isinstance(found, Export)
    for side in ("right", "left"):
        if side == "left" and (head.endswith("Classification") or head == "ForConditionalGeneration"):
            continue  # there the vector is taken from the first place, which is padding
        inputs, arguments = laid(family, theirs, side)
        if found.head == "seq2seq":
            arguments["decoder_input_ids"] = arguments["input_ids"][:, :9]
            source, expected = inputs, theirs(**arguments).logits
            got = model.learner.head(
                arguments["decoder_input_ids"], torch.ones(3, 9, dtype=torch.long), source.documents,
                model.learner.encoder(source), model.learner.encoder.tokens,
            )  # fmt: skip
            assert (got - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
            continue
        if family == "XLNet" and head == "ForSequenceClassification":
            inputs, arguments = laid(family, theirs, "left")  # its vector is that of the last place
        outputs, got = theirs(**arguments), found.outputs(inputs)
        expected = outputs[0]
        if got.shape[:2] == inputs.ids.shape:
            expected, got = expected[inputs.mask], got[inputs.mask]
        assert (got - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
        if found.second is not None and side == "right":
            assert (found.second(inputs) - outputs[1]).abs().max() < 1e-5


VOCABULARY_HEADS = [(f, h) for f, hs in HEADS.items() for h in hs if h in ("ForMaskedLM", "LMHeadModel", "ForPreTraining")]


@pytest.mark.parametrize(("family", "head"), [(f, h) for f, h in VOCABULARY_HEADS if (f, h) != ("Electra", "ForPreTraining")])
@torch.no_grad()
def test_a_head_with_a_table_of_its_own_comes_in_and_goes_out(family: str, head: str, tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", family, next(iter(SHAPES[family])), head, tie_word_embeddings=False)
    model = imported(tmp_path / "hf", tmp_path / "ours")
    assert model.learner.config.head == "own"
    inputs, arguments = laid(family, theirs, "right")
    expected, got = theirs(**arguments)[0][inputs.mask], model.learner.exported().outputs(inputs)[inputs.mask]
    assert (got - expected).abs().max() < 1e-5
    if family != "XLNet":  # and so in the loss
        labels = torch.where(inputs.mask & (inputs.ids % 3 == 0), inputs.ids, -100)
        flat, real = labels.flatten(), (labels != -100).flatten()
        if family == "GPT2":
            loss = model.learner(inputs, {"next": labels})["next"]
        else:
            loss = model.learner.logits(model.learner.encoder(inputs), real.nonzero()[:, 0]).log_softmax(-1)
            loss = -loss.gather(1, flat[real][:, None]).sum()
        logits = theirs(**arguments)[0].flatten(0, 1)
        torch.testing.assert_close(loss, cross_entropy(logits, flat, reduction="sum"), atol=1e-3, rtol=1e-5)
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5
    again = imported(tmp_path / "back", tmp_path / "again").learner.state_dict()
    assert again.keys() == model.learner.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.learner.state_dict().items())


def test_the_heads_of_microsofts_deberta_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its config names no class, and it holds what the generator and the discriminator of the pretraining had on top."""
    published(tmp_path / "hf", "DebertaV2", "v3", "ForMaskedLM", legacy=False)
    described = json.loads((tmp_path / "hf" / "config.json").read_bytes())
    del described["architectures"], described["legacy"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(described), encoding="utf-8")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = import_model.checkpoint_tensors(path, False)
    more = {f"mask_predictions.{name}": torch.ones(21) for name in ("dense.bias", "LayerNorm.weight", "classifier.weight")}
    path.write_bytes(safetensors.torch.save({**tensors, **more}))
    heads = {name for name in tensors if name.startswith("lm_predictions")} | more.keys()
    assert len(heads) == 8
    with torch.no_grad():
        imported(tmp_path / "hf", tmp_path / "ours", heads)
    assert "mask_predictions" in capsys.readouterr().err


ROWS = [
    {"a": without_odd(text), "b": without_odd(TEXTS[i - 1]), "label": LABELS[i % 3]} for i, text in enumerate(TEXTS)
]  # fmt: skip


def recipe(folder: Path, checkpoint: Path, task: dict[str, Any]) -> FinetuneRecipe:
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    return validate(
        FinetuneRecipe,
        {
            "checkpoint": str(checkpoint),
            "data": {"train": str(folder / "rows.jsonl"), "length": 48},
            "task": task,
            "optimizer": {"kind": "adamw", "lr": 0.01},
            "training": {"updates": 3, "batch": 12, "compile": "off", "device": "cpu", "precision": "fp32"},
        },
        "recipe",
    )


def predicted(model: Path, folder: Path, columns: int) -> list[Any]:
    texts = [[row["a"], row["b"]][:columns] for row in ROWS]
    predict(model, None, texts, out=folder / "out.jsonl", precision="fp32")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("family", [family for family in SHAPES if family not in ("T5", "MT5")])
def test_a_fine_tuned_import_goes_back_and_predicts_the_same(family: str, tmp_path: Path) -> None:
    published(tmp_path / "hf", family, next(iter(SHAPES[family])), HEADS[family][1])
    imported(tmp_path / "hf", tmp_path / "ours")
    pooling = {"pooling": "last"} if family == "GPT2" else {}
    task = {"kind": "classify", "text": ["a", "b"], "label": "label", **pooling}
    done = Path(finetune(recipe(tmp_path, tmp_path / "ours", task), tmp_path / "run")["best"])
    before, after = (open_model(path).learner.encoder.state_dict() for path in (tmp_path / "ours", done))  # type: ignore[attr-defined]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert export.run(done, ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5
    named = [json.loads((tmp_path / place / "config.json").read_bytes())["model_type"] for place in ("hf", "back")]
    assert named[0] == named[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    for row, found in zip(ROWS, predicted(done, tmp_path, 2), strict=True):
        arguments = tokenizer(row["a"], row["b"], truncation=True, return_tensors="pt")
        with torch.no_grad():
            scores = theirs(**arguments).logits.softmax(-1)[0]
        named = {theirs.config.id2label[i]: float(score) for i, score in enumerate(scores)}
        assert found["scores"] == pytest.approx(named, abs=1e-4)
        assert found["label"] == max(named, key=named.__getitem__)


OTHERS: dict[str, dict[str, Any]] = {
    "tag": {"kind": "tag", "tokens": "words", "tags": "tags"},
    "span": {"kind": "span", "question": "b", "context": "a", "answers": "answers", "question_length": 8, "overlap": 8},
    "regress": {"kind": "regress", "text": ["a", "b"], "label": "number"},
    "rerank": {"kind": "rerank", "text": ["b", "a"], "label": "relevance"},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("family", ["Bert", "Roberta", "XLMRoberta", "Electra", "ModernBert", "DebertaV2", "XLNet"])
def test_so_it_does_for_other_tasks(family: str, kind: str, tmp_path: Path) -> None:
    """`export` compares what transformers' class of the task gives with what was trained here."""
    published(tmp_path / "hf", family, next(iter(SHAPES[family])), HEADS[family][1])
    imported(tmp_path / "hf", tmp_path / "ours")
    rows = []
    for i, text in enumerate(text for text in TEXTS if text.strip()):
        words = text.split()
        tags = ["B-x" if (i + j) % 2 else "O" for j in range(len(words))]
        answers = {"text": [words[0]], "answer_start": [text.index(words[0])]}
        more = {"words": words, "tags": tags, "answers": answers, "number": i * 1.5, "relevance": i % 2}
        rows.append({"a": text, "b": "who" if kind == "span" else f"query {i // 2}", **more})
    made = recipe(tmp_path, tmp_path / "ours", OTHERS[kind])
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    made = made.model_copy(update={"data": made.data.model_copy(update={"dev": str(tmp_path / "rows.jsonl")})})
    done = Path(finetune(made, tmp_path / "run")["best"])
    assert export.run(done, ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 2e-5


@pytest.mark.parametrize(("family", "shape"), [("T5", "1.0"), ("T5", "1.1"), ("MT5", "odd")])
def test_a_t5_is_fine_tuned_to_write_and_writes_the_same_there(family: str, shape: str, tmp_path: Path) -> None:
    """From Google's own files: no [CLS], no [MASK], </s> at the end, and sentinels that go down, of mT5 among the pieces."""
    pytest.importorskip("sacrebleu")
    published(tmp_path / "hf", family, shape, "ForConditionalGeneration")
    model = imported(tmp_path / "hf", tmp_path / "ours")
    tokenizer, objective = model.tokenizer, model.learner.config
    first = tokenizer.vocab_size - 1 if family == "T5" else tokenizer.find("▁<extra_id_0>")
    assert tokenizer.sentinels[0] == first == objective.first_sentinel and objective.sentinel_step == -1
    assert (objective.sentinels, objective.decoder.start) == (100 if family == "T5" else 2, "pad")
    task = {"kind": "generate", "source": "a", "target": "b", "target_length": 24}
    done = Path(finetune(recipe(tmp_path, tmp_path / "ours", task), tmp_path / "run")["best"])
    assert open_model(done).learner.config.decoder.head == ("tied" if shape == "1.0" else "own")
    assert export.run(done, ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-4
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "back").eval()
    assert type(theirs).__name__ == f"{family}ForConditionalGeneration"
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for row, found in zip(ROWS, predicted(done, tmp_path, 1), strict=True):
        arguments = again(row["a"], truncation=True, return_tensors="pt")
        assert arguments["input_ids"][0, -1] == 1
        beams = open_model(done).learner.config.beams
        written = theirs.generate(**arguments, max_new_tokens=24, num_beams=beams, do_sample=False)[0]
        ids = [id for id in written.tolist()[1:] if id != 1]
        assert found["written"] == open_model(done).tokenizer.decode(ids)
    import_model.run(str(tmp_path / "back"), tmp_path / "again", writes=True, length=48)  # as it is, and not to be trained on
    both = []
    for name, model in (("mine", done), ("theirs", tmp_path / "again")):
        (tmp_path / name).mkdir()
        both.append([row["written"] for row in predicted(model, tmp_path / name, 1)])
    assert len(both[0]) > 1 and any(both[0])
    assert all(longer.startswith(short.rstrip()) for short, longer in zip(*both, strict=True))  # 24 tokens at most, and 128


@pytest.mark.parametrize("shape", SHAPES["T5"])
@torch.no_grad()
def test_a_t5_is_asked_for_sentences_as_it_reads_them(shape: str, tmp_path: Path) -> None:
    """Token by token, by transformers: <extra_id_0> in its place, and what the decoder says after it."""
    theirs = published(tmp_path / "hf", "T5", shape, "ForConditionalGeneration")
    engine = start(imported(tmp_path / "hf", tmp_path / "ours"), "fp32")
    [row], cut = minimal_pairs._rows(engine, [TEXTS[0]])
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids, sentinel, expected = again(TEXTS[0])["input_ids"], again.convert_tokens_to_ids("<extra_id_0>"), 0.0
    assert row.ids.tolist() == ids and ids[-1] == 1 and not cut
    for place, token in enumerate(ids[:-1]):
        read = torch.tensor([[*ids[:place], sentinel, *ids[place + 1 :]]])
        logits = theirs(input_ids=read, labels=torch.tensor([[sentinel, token]])).logits
        expected += float(logits[0, 1].log_softmax(-1)[token])
    learner: Any = engine.model.learner
    assert learner.log_likelihoods([row], None, 100) == pytest.approx([expected], rel=1e-4)
    published(tmp_path / "alone", "T5", shape, "EncoderModel")
    with pytest.raises(UsageError, match="no likelihood"):
        minimal_pairs.evaluate(start(imported(tmp_path / "alone", tmp_path / "vectors"), "fp32"), [tmp_path])


def prepared(family: str, text: str) -> str:
    """What the authors of ALBERT and XLNet do to a text before sentencepiece sees it: their `preprocess_text`."""
    if family not in ("Albert", "XLNet"):
        return text
    text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower() if family == "Albert" else text


def of_authors(family: str, reference: Any, text: str) -> list[int]:
    """The ids that the family's authors trained with."""
    ids = reference.encode(prepared(family, text))
    first = {"XLMRoberta": 1, "Camembert": 4}.get(family, 0)  # of fairseq's dictionary, in which <unk> is 3
    return [3 if first and id == 0 else id + first for id in ids]


@pytest.mark.parametrize("family", UNIGRAM)
def test_ids_are_those_of_the_authors_sentencepiece(family: str, tmp_path: Path) -> None:
    """transformers 5 reads such a file without the table of characters (DeBERTa) or splits at symbols (ALBERT, XLNet)."""
    published(tmp_path / "hf", family, next(iter(SHAPES[family])), HEADS[family][0])
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "hf" / file).unlink(missing_ok=True)
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    model = next(path for path in (tmp_path / "hf").iterdir() if path.suffix == ".model").read_bytes()
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    export.run(tmp_path / "ours", ["hf"], tmp_path / "back")
    imported(tmp_path / "back", tmp_path / "again")
    for folder in ("ours", "again"):
        ours = open_tokenizer(tmp_path / folder)
        for text in [*TEXTS, *ODD, "", " ", "a\x85b", "▁ under ▁▁", "a ( b)c", "<unk> [SEP] </s> <pad>", "<0x41> <0x4"]:
            assert ids_of(ours, text) == of_authors(family, reference, text), text
            assert ours.spans([text]).ids.tolist() == ids_of(ours, text), text
    assert ours.quicken(["a b"]) is None  # what is remembered knows nothing of the steps before


def test_characters_that_are_one_in_sentencepiece_keep_their_places(tmp_path: Path) -> None:
    published(tmp_path / "hf", "XLMRoberta", "odd", "Model")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    tokenizer, texts = open_tokenizer(tmp_path / "ours"), ["the  ｶﾞｷﾞ é films", "the  ガギ é films"]
    found, plain = (tokenizer.spans([text]) for text in texts)
    assert found.ids.tolist() == plain.ids.tolist()
    pieces = [tokenizer.token(id).strip("▁") for id in found.ids]
    for (begin, end), (other, last), piece in zip(found.characters.tolist(), plain.characters.tolist(), pieces, strict=True):
        longer = [[texts[1][:place].count(c) for c in "ガギ"] for place in (other, last)]
        if piece and piece != "<unk>":
            assert (begin, end) == (other + sum(longer[0]), last + sum(longer[1])), piece


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode([text]).ids.tolist()


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("family", ["Bert", "Electra", "Roberta", "GPT2", "ModernBert", "T5", "MT5", "XLMRoberta", "Camembert"])
def test_ids_are_those_of_transformers(family: str, lowercase: bool, tmp_path: Path) -> None:
    if not lowercase and family not in ("Bert", "Electra"):
        pytest.skip("has no such setting")
    published(tmp_path / "hf", family, next(iter(SHAPES[family])), HEADS[family][0])
    if family != "ModernBert":
        (tmp_path / "hf" / "tokenizer.json").unlink(missing_ok=True)
        tokenizer_files(family, tmp_path / "hf", lowercase)
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    ours, theirs = open_tokenizer(tmp_path / "ours"), transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in [*TEXTS, "", " ", "\x00nul \x1b[0m", "a\u0300\u0301\u0302 ｆｕｌｌ　ｗｉｄｔｈ", "    four  two"]:
        text = without_odd(text) if family in UNIGRAM else text
        assert ids_of(ours, text) == theirs(text, add_special_tokens=False)["input_ids"], text
    pair = theirs("the film", "good")["input_ids"]
    encoded = [ids_of(ours, text) for text in ("the film", "good")]
    told = [part.id for part in ours.template.pair]
    if family != "GPT2":
        assert pair == np.concatenate([encoded.pop(0) if id is None else [id] for id in told]).tolist()


@pytest.mark.parametrize("model", [True, False])
def test_a_tokenizer_json_is_read_as_it_stands_and_goes_back_so(model: bool, tmp_path: Path) -> None:
    """As bge-m3 and multilingual-e5 are published: what transformers reads decides, also where sentencepiece's model is there."""
    published(tmp_path / "hf", "XLMRoberta", "odd", "ForSequenceClassification")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "hf")
    if not model:
        (tmp_path / "hf" / "sentencepiece.bpe.model").unlink()
    imported(tmp_path / "hf", tmp_path / "ours")
    ours = open_tokenizer(tmp_path / "ours")
    assert (ours.cls, ours.pad, ours.sep, ours.unk, ours.mask) == (0, 1, 2, 3, ours.vocab_size - 1)
    export.run(tmp_path / "ours", ["hf"], tmp_path / "back")
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    for text in [*TEXTS, *ODD, "", " "]:
        assert ids_of(ours, text) == theirs(text, add_special_tokens=False)["input_ids"], text
    for text in [*TEXTS, *ODD, "", " ", "<pad> is </s> here"]:
        assert back(text)["input_ids"] == [0, *ids_of(ours, text), 2], text
    assert back("a film", "good")["input_ids"] == theirs("a film", "good")["input_ids"]


def test_a_damaged_model_of_sentencepiece_is_refused(tmp_path: Path) -> None:
    published(tmp_path / "hf", "T5", "1.0", "EncoderModel")
    path = tmp_path / "hf" / "spiece.model"
    for data in (b"", path.read_bytes()[:1000], b"\xff" * 50, b"not a model"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as a unigram model"):
            import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
