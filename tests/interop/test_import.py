"""`encoderkit import`: checkpoints of transformers and UER-py, made here with random weights, become models that agree."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing
from torch import nn

from encoderkit.errors import DataError, UsageError
from encoderkit.inference import EncoderAlone, open_model
from encoderkit.interop.families import recognise
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.causal import Causal
from encoderkit.objectives.masked import Masked
from encoderkit.preflight import find_step
from encoderkit.stages import export, import_model
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.generate import Sampling, generate
from encoderkit.stages.predict import predict
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.regress import Regress
from encoderkit.tasks.schemes import entities
from encoderkit.tasks.tag import Tag
from encoderkit.text.foreign import wordpiece_files
from encoderkit.text.tokenizers import open_tokenizer

transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "film", "is", "good", "bad", "##ly", "un", "##s", "!", "?", "电", "影", "好", "cafe", "a", "##b", "##c", "é"]
TEXTS = [
    "The films is goodly!",
    "电影好 the café",
    "",
    "un 😀 ａｂｃ e\u0301 a\tb\u200d\u0007c",
    "abc [MASK] [SEP] 好好好",
    "İstanbul Straße",
]


def published(folder: Path, family: str, kind: str = "ForMaskedLM", **settings: Any) -> Any:
    """A checkpoint of transformers with random weights that are unlike fresh ones; the model."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, **settings}
    rows = len(SPECIAL) + len(WORDS) + 7
    pad = {"pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 4, "cls_token_id": 3, "sep_token_id": 4}
    config = getattr(transformers, f"{family}Config")(vocab_size=rows, max_position_embeddings=40, **pad, **sizes)
    model = getattr(transformers, family + kind)(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.tie_weights()
    model.eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")
    return model


def batch() -> tuple[Inputs, dict[str, torch.Tensor]]:
    mask = torch.arange(21) < torch.tensor([21, 3, 12])[:, None]
    ids = torch.randint(6, 20, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    return Inputs.of(ids, mask), {"input_ids": ids, "attention_mask": mask.long()}


MODELS = {
    "Bert": {"type_vocab_size": 3, "hidden_act": "gelu_new"},
    "Roberta": {"type_vocab_size": 1},
    "Albert": {"embedding_size": 10, "num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2},
    "Electra": {"embedding_size": 10},
    "DebertaV2": {
        "position_buckets": 8,
        "relative_attention": True,
        "pos_att_type": "p2c|c2p",
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    },
    "ModernBert": {"local_attention": 8, "num_hidden_layers": 5},
}


KINDS = {"DebertaV2": "deberta"}


@torch.no_grad()
def test_debertas_head_that_is_not_legacy(tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", "DebertaV2", **MODELS["DebertaV2"], legacy=False)
    assert import_model.run(str(tmp_path / "hf"), tmp_path / "ours")["unused"] == []
    inputs, arguments = batch()
    found = open_model(tmp_path / "ours").learner.exported().outputs(inputs)  # type: ignore[union-attr]
    assert (found - theirs(**arguments).logits)[inputs.mask].abs().max() < 1e-5


@torch.no_grad()
def test_a_discriminator_flags_tokens(tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", "Electra", "ForPreTraining", **MODELS["Electra"])
    assert import_model.run(str(tmp_path / "hf"), tmp_path / "ours")["head"] == "replaced"
    predict(tmp_path / "ours", None, [["the film"], ["电影好!!"]], out=tmp_path / "out.jsonl", precision="fp32")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [[flag["token"] for flag in row["predictions"]] for row in rows] == [["the", "film"], ["电", "影", "好", "!", "!"]]
    for row in rows:
        ids = open_tokenizer(tmp_path / "ours" / "tokenizer").encode([row["text"]]).ids.tolist()
        scores = theirs(torch.tensor([[3, *ids, 4]])).logits.sigmoid()[0, 1:-1].tolist()
        assert [flag["score"] for flag in row["predictions"]] == pytest.approx(scores, abs=1e-5)
        assert [flag["replaced"] for flag in row["predictions"]] == [score > 0.5 for score in scores]
    with pytest.raises(UsageError, match="without its generator"):
        open_model(tmp_path / "ours").learner.collate([], [], None)
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["loads_with"] == "AutoModelForPreTraining"


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_masked_models_agree(family: str, tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", family, **MODELS[family])
    result = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert (result["family"], result["head"], result["unused"]) == (KINDS.get(family, family.lower()), "masked", [])
    model = open_model(tmp_path / "ours")
    assert isinstance(model.learner, Masked)
    inputs, arguments = batch()
    hidden = model.learner.encoder(inputs)
    logits = model.learner.head(hidden, model.learner.encoder.tokens.weight)
    assert (logits - theirs(**arguments).logits)[inputs.mask].abs().max() < 1e-5


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_a_classifier_comes_in_and_goes_out_again(family: str, tmp_path: Path) -> None:
    labels = {"num_labels": 3, "id2label": {0: "no", 1: "yes", 2: "不知道"}}
    theirs = published(tmp_path / "hf", family, "ForSequenceClassification", **MODELS[family], **labels)
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    model = open_model(tmp_path / "ours")
    assert isinstance(model.learner, Classify)
    assert model.labels == ["no", "yes", "不知道"]
    inputs, arguments = batch()
    assert (model.learner.logits(inputs) - theirs(**arguments).logits).abs().max() < 1e-5
    right = torch.tensor([2, 0, 1])
    loss = model.learner(inputs, {"labels": right})["classify"] / 3
    torch.testing.assert_close(loss, theirs(**arguments, labels=right).loss, atol=1e-5, rtol=1e-5)
    (tmp_path / "rows.jsonl").write_text(
        '{"text": "the film", "label": "yes"}\n{"text": "bad", "label": "no"}\n', encoding="utf-8"
    )
    assert evaluate(tmp_path / "ours", tmp_path / "rows.jsonl")["baselines"] == {}  # what it was trained on it does not say
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5
    back = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back")
    for (name, ours), (again, other) in zip(back.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert name == again
        unused = 1 if name == "roberta.embeddings.position_embeddings.weight" else 0  # positions start after padding's id
        assert torch.equal(ours[unused:], other[unused:]), name


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("family", ["Bert", "ModernBert"])
def test_what_gives_numbers_is_no_classifier(family: str, count: int, tmp_path: Path) -> None:
    """One output without a `problem_type` is a number in transformers: rerankers are published so."""
    said = {} if count == 1 else {"problem_type": "regression"}
    theirs = published(tmp_path / "hf", family, "ForSequenceClassification", **MODELS[family], num_labels=count, **said)
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    model = open_model(tmp_path / "ours")
    assert isinstance(model.learner, Regress) and model.labels == (["score"] if count == 1 else ["LABEL_0", "LABEL_1"])
    inputs, arguments = batch()
    with torch.no_grad():
        assert (model.learner.logits(inputs) - theirs(**arguments).logits).abs().max() < 1e-5
    goal = torch.randn(3, count, generator=torch.Generator().manual_seed(7))
    loss = model.learner(inputs, {"numbers": goal})["regress"] / goal.numel()
    with torch.no_grad():
        expected = theirs(**arguments, labels=goal).loss
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=1e-5)
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5
    assert predict(tmp_path / "ours", None, [["the film"]])


@pytest.mark.parametrize("named", ["ForPreTraining", "ForMaskedLM"])
@pytest.mark.parametrize(("family", "relation"), [("Bert", "next"), ("Albert", "order")])
@torch.no_grad()
def test_pretraining_models_agree_whatever_they_are_called(family: str, relation: str, named: str, tmp_path: Path) -> None:
    """Google's BERT calls itself a masked model, and holds the pooler and the head of the pairs all the same."""
    theirs = published(tmp_path / "hf", family, "ForPreTraining", **MODELS[family])
    described = json.loads((tmp_path / "hf" / "config.json").read_bytes())
    described["architectures"] = [family + named]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(described), encoding="utf-8")
    result = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert (result["family"], result["head"], result["unused"]) == (family.lower(), "pairs", [])
    learner = open_model(tmp_path / "ours").learner
    assert isinstance(learner, Masked) and learner.config.pairs == relation
    found = learner.exported()
    assert not isinstance(found, str) and found.second is not None
    inputs, arguments = batch()
    words, told = theirs(**arguments)[:2]
    assert (found.outputs(inputs) - words)[inputs.mask].abs().max() < 1e-5
    assert (found.second(inputs) - told).abs().max() < 1e-5
    if family == "Bert":
        parity = export.run(tmp_path / "ours", ["hf"], tmp_path / "back")
        assert parity["loads_with"] == "AutoModelForPreTraining" and parity["parity"]["max_abs_diff"] < 1e-5


@pytest.mark.parametrize("family", MODELS)
@torch.no_grad()
def test_a_tagger_comes_in_and_goes_out_again(family: str, tmp_path: Path) -> None:
    """Its tags are written as here: M is I, and L is E."""
    tags = ["I-x", "O", "B-x", "U-x", "L-x"]
    labels = {"num_labels": 5, "id2label": dict(enumerate(tags))}
    theirs = published(tmp_path / "hf", family, "ForTokenClassification", **MODELS[family], **labels)
    assert import_model.run(str(tmp_path / "hf"), tmp_path / "ours")["unused"] == []
    model: Any = open_model(tmp_path / "ours")
    assert isinstance(model.learner, Tag) and model.labels == ["I-x", "O", "B-x", "S-x", "E-x"]
    inputs, arguments = batch()
    found = model.learner.exported().outputs(inputs)
    assert (found - theirs(**arguments).logits)[inputs.mask].abs().max() < 1e-5
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5
    predict(tmp_path / "ours", None, [["the good film"]], tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert row["text"] == "the good film" and all(one["label"] == "x" for one in row["entities"])


@pytest.mark.parametrize(
    ("tags", "scheme", "kinds"),
    [
        (["O", "I-PER", "I-LOC", "B-LOC"], "bio", ["PER", "LOC"]),  # IOB1: an I begins an entity
        (["B", "I"], "plain", ["B", "I"]),
        (["O", "B-x", "I-x", "[CLS]"], "plain", ["O", "B-x", "I-x", "[CLS]"]),
        (["NOUN", "VERB"], "plain", ["NOUN", "VERB"]),
    ],
)
@torch.no_grad()
def test_tags_of_other_programs_are_given_as_they_were_learnt(
    tags: list[str], scheme: str, kinds: list[str], tmp_path: Path
) -> None:
    """The likeliest tag of each token, whatever stands before it."""
    labels = {"num_labels": len(tags), "id2label": dict(enumerate(tags))}
    theirs = published(tmp_path / "hf", "Bert", "ForTokenClassification", **labels)
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    learner: Any = open_model(tmp_path / "ours").learner
    assert (learner.scheme, learner.kinds) == (scheme, kinds)
    predict(tmp_path / "ours", None, [["good bad film the"]], tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    ids = torch.tensor([[3, *open_tokenizer(tmp_path / "ours").encode(["good bad film the"]).ids.tolist(), 4]])
    best = [tags[i] for i in theirs(input_ids=ids).logits[0, 1:-1].argmax(-1).tolist()]
    if scheme == "plain":
        assert row["tags"] == best
    else:
        assert [one["label"] for one in row["entities"]] == [one.label for one in entities(best)]


@torch.no_grad()
def test_a_head_that_is_unknown_leaves_the_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = published(tmp_path / "hf", "Bert", "ForMultipleChoice")
    result = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert result["head"] == "none"
    assert {"classifier.bias", "classifier.weight"} <= set(result["unused"])
    assert "classifier.bias" in capsys.readouterr().err
    model = open_model(tmp_path / "ours")
    assert isinstance(model.learner, EncoderAlone)
    inputs, arguments = batch()
    difference = model.learner.encoder(inputs) - theirs.bert(**arguments).last_hidden_state
    assert difference[inputs.mask].abs().max() < 1e-5


def test_old_names_and_repeated_tensors(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    path = tmp_path / "hf" / "model.safetensors"
    from_now = import_model.checkpoint_tensors(path, False)
    before = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in from_now.items()
    }
    before["cls.predictions.decoder.weight"] = from_now["bert.embeddings.word_embeddings.weight"].clone()
    before["bert.embeddings.position_ids"] = torch.arange(40)[None]
    path.write_bytes(safetensors.torch.save(before))
    assert import_model.run(str(tmp_path / "hf"), tmp_path / "ours")["unused"] == []
    before["cls.predictions.decoder.weight"] += 1  # a head with a table of its own
    path.write_bytes(safetensors.torch.save(before))
    assert import_model.run(str(tmp_path / "hf"), tmp_path / "untied")["unused"] == []
    learner: Any = open_model(tmp_path / "untied").learner
    assert torch.equal(learner.head.own.weight, learner.encoder.tokens.weight + 1)


def test_a_pickle_is_read_only_when_trusted_and_never_runs_code(tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", "Bert")
    (tmp_path / "hf" / "model.safetensors").unlink()
    pickle = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(theirs.state_dict(), pickle)
    with pytest.raises(UsageError, match="pickle"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours", trust_pickle=True)
    weight = open_model(tmp_path / "ours").learner.encoder.tokens.weight
    assert torch.equal(weight, theirs.bert.embeddings.word_embeddings.weight)
    torch.save({"a": Evil(tmp_path / "written")}, pickle)
    with pytest.raises(DataError, match="tensors alone"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "evil", trust_pickle=True)
    assert not (tmp_path / "written").exists()


class Evil:
    """A pickle that writes a file when it is read as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "x"))


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_ids_are_those_of_transformers(lowercase: bool, tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    described = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase}
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path / "hf")
    ours = open_tokenizer(tmp_path / "ours")
    texts = [text for text in TEXTS if "[" not in text]  # "[SEP]" in a text is characters here, a token there
    encoded = ours.encode(texts)
    for i, text in enumerate(texts):
        found = encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        assert found == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize(
    ("lowercase", "beside", "told"),
    [
        (False, None, ""),  # the class of the family reads small letters where nothing is said
        (True, {"tokenizer_class": "BertTokenizer", "do_lower_case": False}, "do_lower_case: false"),
        (False, {"do_lower_case": False}, ""),
        (False, {}, ""),
        (True, {"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": False}, "tokenize_chinese_chars: false"),
    ],
)
def test_a_tokenizer_json_is_read_as_it_stands_after_the_export_too(
    lowercase: bool, beside: dict[str, Any] | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where transformers' class would make up another one of its vocabulary; `export` compares the ids."""
    folder = tmp_path / "hf"
    published(folder, "Bert")
    (folder / "tokenizer.json").write_bytes(wordpiece_files(folder / "vocab.txt", lowercase)["tokenizer.json"])
    (folder / "tokenizer_config.json").unlink()
    if beside is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(beside), encoding="utf-8")
    if beside == {}:  # what no flag says: other rules of cutting than those of the class
        described = json.loads((folder / "tokenizer.json").read_bytes())
        described["pre_tokenizer"] = {"type": "WhitespaceSplit"}
        described["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
        (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    import_model.run(str(folder), tmp_path / "ours")
    said = capsys.readouterr().err
    assert told in said if told else "and tokenizer.json otherwise" not in said
    export.run(find_step(tmp_path / "ours"), ["hf"], tmp_path / "again")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    ours = open_tokenizer(tmp_path / "ours").encode(["Good CAFÉ 好好"]).ids.tolist()
    assert theirs("Good CAFÉ 好好", add_special_tokens=False)["input_ids"] == ours


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        (None, ""),
        ({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}, "add_prefix_space: true"),
        ({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": False}, ""),
    ],
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_so_is_one_of_bytes(
    lowercase: bool, beside: dict[str, Any] | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = ByteLevelBPETokenizer(lowercase=lowercase)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS * 3, vocab_size=320, min_frequency=2, special_tokens=special, show_progress=False)
    config = transformers.RobertaConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    folder = tmp_path / "hf"
    transformers.RobertaModel(config).save_pretrained(folder)
    ends = [(name, trained.token_to_id(name)) for name in ("</s>", "<s>")]
    trained._tokenizer.post_processor = RobertaProcessing(*ends, add_prefix_space=False)
    trained.save(str(folder / "tokenizer.json"))
    if beside is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(beside), encoding="utf-8")
    import_model.run(str(folder), tmp_path / "ours")
    said = capsys.readouterr().err
    assert told in said if told else "and tokenizer.json otherwise" not in said
    export.run(find_step(tmp_path / "ours"), ["hf"], tmp_path / "again")


def test_byte_bpe_ids_are_those_of_transformers(tmp_path: Path) -> None:
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS * 3, vocab_size=320, min_frequency=2, special_tokens=special, show_progress=False)
    config = transformers.RobertaConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    transformers.RobertaModel(config).save_pretrained(tmp_path / "hf")
    trained.save_model(str(tmp_path / "hf"))
    result = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert (result["family"], result["head"]) == ("roberta", "none")
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path / "hf")
    ours = open_tokenizer(tmp_path / "ours")
    encoded = ours.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        found = encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        assert found == theirs(text, add_special_tokens=False)["input_ids"], text
    assert (ours.cls, ours.pad, ours.sep, ours.unk) == (0, 1, 2, 3)


@pytest.mark.parametrize("kind", ["LMHeadModel", "ForSequenceClassification"])
@torch.no_grad()
def test_gpt2_with_its_one_special_token(kind: str, tmp_path: Path) -> None:
    """As OpenAI's is published: no prefix before the names, the mask of attention saved, one token that stands for all."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS * 3, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    size = trained.get_vocab_size()
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=24, n_layer=2, n_head=3, n_positions=40,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, num_labels=3
    )  # fmt: skip
    torch.manual_seed(1)
    theirs = getattr(transformers, f"GPT2{kind}")(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.tie_weights()
    theirs.save_pretrained(tmp_path / "hf")
    trained.save_model(str(tmp_path / "hf"))
    path = tmp_path / "hf" / "model.safetensors"
    tensors = import_model.checkpoint_tensors(path, False)
    if kind == "LMHeadModel":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        tensors |= {"h.0.attn.bias": torch.ones(1, 1, 40, 40).tril(), "h.0.attn.masked_bias": torch.tensor(-1e4)}
        path.write_bytes(safetensors.torch.save(tensors))
    result = import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert (result["family"], result["unused"]) == ("gpt", [])
    model = open_model(tmp_path / "ours")
    assert set(model.tokenizer.special) == {0}
    ids = torch.randint(1, size, (2, 17), generator=torch.Generator().manual_seed(3))
    found = theirs(input_ids=ids).logits
    if isinstance(model.learner, Classify):
        assert (model.learner.logits(Inputs.of(ids)) - found).abs().max() < 1e-5
        return
    assert isinstance(model.learner, Causal)
    hidden = model.learner.encoder(Inputs.of(ids))
    assert (model.learner.head(hidden, model.learner.encoder.tokens.weight) - found).abs().max() < 1e-5
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-4
    text, most = "the café", 12
    greedy = Sampling(temperature=0)
    [entry] = generate(tmp_path / "ours", None, [text], most=most, sampling=greedy, precision="fp32")["generated"]
    start = torch.tensor([[0, *model.tokenizer.encode([text]).ids.tolist()]])
    [written] = theirs.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=most, do_sample=False).tolist()
    assert entry["texts"][0]["text"] == model.tokenizer.decode(written)


def uer_norm(gamma: torch.Tensor, beta: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """As UER-py computes it: the deviation is a sample's, and 1e-6 is added to it."""
    return gamma * (input - input.mean(-1, keepdim=True)) / (input.std(-1, keepdim=True) + 1e-6) + beta


@pytest.mark.parametrize("old", [True, False])
@torch.no_grad()
def test_uer(old: bool, tmp_path: Path) -> None:
    theirs = published(tmp_path / "hf", "Bert")
    word = {"word": "word_embedding", "pos": "position_embedding", "seg": "segment_embedding"} if old else {}
    names = {
        "bert.embeddings.word_embeddings": f"embedding.{word.get('word', 'word.embedding')}",
        "bert.embeddings.position_embeddings": f"embedding.{word.get('pos', 'pos.embedding')}",
        "bert.embeddings.token_type_embeddings": f"embedding.{word.get('seg', 'seg.embedding')}",
        "bert.embeddings.LayerNorm": "embedding.layer_norm",
        "attention.self.query": "self_attn.linear_layers.0",
        "attention.self.key": "self_attn.linear_layers.1",
        "attention.self.value": "self_attn.linear_layers.2",
        "attention.output.dense": "self_attn.final_linear",
        "attention.output.LayerNorm": "layer_norm_1",
        "intermediate.dense": "feed_forward.linear_1",
        "output.dense": "feed_forward.linear_2",
        "output.LayerNorm": "layer_norm_2",
        "bert.encoder.layer": "encoder.transformer",
        "cls.predictions.transform.dense": "target.mlm_linear_1" if old else "target.mlm.linear_1",
        "cls.predictions.transform.LayerNorm": "target.layer_norm" if old else "target.mlm.layer_norm",
        "cls.predictions.decoder": "target.mlm_linear_2" if old else "target.mlm.linear_2",
    }
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        if name == "cls.predictions.bias":
            continue
        norm = "LayerNorm" in name
        for ours, its in names.items():
            name = name.replace(ours, its)
        if norm:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        if ".seg" in name:
            tensor = torch.cat((torch.full((1, tensor.shape[1]), 9.0), tensor))
        tensors[name] = tensor.clone()
    torch.save(tensors, tmp_path / "model.bin")
    with pytest.raises(UsageError, match="vocabulary"):
        import_model.run(str(tmp_path / "model.bin"), tmp_path / "ours", trust_pickle=True)
    config = tmp_path / "mini_config.json"
    described = {"heads_num": 3, "hidden_act": "gelu", "embedding": "word_pos_seg", "encoder": "transformer"}
    config.write_text(json.dumps({**described, "mask": "fully_visible", "target": ["mlm", "sp"]}), encoding="utf-8")
    vocabulary = tmp_path / "hf" / "vocab.txt"
    result = import_model.run(str(tmp_path / "model.bin"), tmp_path / "ours", True, config, vocabulary)
    assert (result["family"], result["head"], result["unused"]) == ("bert", "masked", [])
    for part in theirs.modules():
        if isinstance(part, nn.LayerNorm):
            part.forward = partial(uer_norm, part.weight, part.bias)
    inputs, arguments = batch()
    learner: Any = open_model(tmp_path / "ours").learner
    logits = learner.head(learner.encoder(inputs), learner.encoder.tokens.weight)
    assert (logits - theirs(**arguments).logits)[inputs.mask].abs().max() < 2e-5


@pytest.mark.parametrize("family", ["GPT2", "Albert", "Bert", "Esmc", "ModernBert", "T5", "MT5", "XLMRoberta", "XLNet"])
def test_what_a_config_does_not_say_is_what_transformers_takes(family: str) -> None:
    """Not its sizes, which every config.json has."""
    theirs: Any = getattr(transformers, f"{family}Config")()
    whole = theirs.to_dict() | {"architectures": None}
    named = ("hidden_act", "activation_function", "hidden_activation", "ff_activation", "feed_forward_proj", "norm_eps")
    named += ("layer_norm_eps", "layer_norm_epsilon", "rope_parameters", "hidden_dropout_prob", "dropout_rate", "resid_pdrop")
    short = {key: value for key, value in whole.items() if key not in named}
    assert recognise(short).config == recognise(whole).config


@pytest.mark.parametrize("change", [{"rope_type": "yarn", "factor": 4.0}, {"rope_type": "linear", "factor": 2.0}])
def test_positions_that_are_stretched_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    published(tmp_path / "hf", "ModernBert", **MODELS["ModernBert"])
    path = tmp_path / "hf" / "config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["rope_parameters"]["full_attention"] |= change
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(DataError, match="rope_type"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bloom"}, "model_type"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"position_embedding_type": "relative_key", "is_decoder": False}, "position_embedding_type"),
        ({"num_attention_heads": 5}, "must divide"),
        ({"num_hidden_layers": 4}, "is missing"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the weights are quantized"),
    ],
)
def test_what_cannot_be_held_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    published(tmp_path / "hf", "Albert" if "is_decoder" in change else "Bert")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_weights_of_a_byte_each_are_refused(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = next(name for name in tensors if name.endswith("intermediate.dense.weight"))
    safetensors.torch.save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(DataError, match="float8_e4m3fn: quantized weights are not read"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "ours")


@pytest.mark.parametrize(("length", "read"), [(None, 40), (12, 12), (40, 40)])
def test_as_many_tokens_are_read_as_is_said(length: int | None, read: int, tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours", length=length)
    assert open_model(tmp_path / "ours").config["length"] == read
    said = tmp_path / "hf" / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_bytes()) | {"model_max_length": 17}), encoding="utf-8")
    found = import_model.run(str(tmp_path / "hf"), tmp_path / "said", length=length)
    assert found["length"] == open_model(tmp_path / "said").config["length"] == (length or 17)
    with pytest.raises(UsageError, match="3 to 40 tokens, found 41"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "more", length=41)


def test_embedding_with_an_import(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert", "Model")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    (tmp_path / "x.txt").write_text("the film\n电影好\n", encoding="utf-8")
    embed(tmp_path / "ours", tmp_path / "x.txt", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (2, 24)


def test_an_encoder_alone_says_what_it_cannot_do_and_is_handed_over(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert", "Model")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UsageError, match="fine-tune it"):
        predict(tmp_path / "ours", None, [["the [MASK]"]])
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["loads_with"] == "AutoModel"
