"""What `encoderkit import` finds in damaged or unusual checkpoints: told with place and remedy, or read as transformers does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tokenizers.pre_tokenizers import ByteLevel

from encoderkit import preflight
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model
from encoderkit.stages import export, import_model
from encoderkit.stages.embed import embed
from encoderkit.text.foreign import wordpiece_files
from encoderkit.text.tokenizers import Tokenizer
from tests.interop.test_import import SPECIAL, WORDS, published

transformers = pytest.importorskip("transformers")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def described(**change: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")

    return damage


def held(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content) and None


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        tensors[QUERY] = change(tensors[QUERY]).contiguous()
        safetensors.torch.save_file(tensors, path)

    return damage


@pytest.mark.parametrize(
    ("damage", "told", "fix"),
    [
        (described(id2label={"a": "x"}), "config.json: id2label should be numbers and their names", "negative"),
        (described(id2label=["x", "y"]), "id2label should be numbers", "negative"),
        (described(id2label={"0": "x", "1": "x"}), 'id2label names two outputs "x"', "its own name"),
        (described(num_attention_heads=5), r"config.json: cannot be a bert: heads \(5\) must divide[^\n\[]*\n", "config"),
        (described(num_attention_heads=0), "config.json: cannot be a bert", "config"),
        (held("config.json", b"{"), "config.json: not valid JSON", "published with the weights"),
        (held("config.json", POINTER), "config.json: is a git-lfs pointer", "git lfs pull"),
        (held("model.safetensors", POINTER), "model.safetensors: is a git-lfs pointer", "git lfs pull"),
        (held("model.safetensors", b"<html>"), "not a readable safetensors file", "download it again"),
        (weights(lambda t: t[:, :20]), "tensors do not fit one another: .*query.weight", "whole"),
        (weights(lambda t: t.to(torch.int8)), f"tensor {QUERY} holds numbers of torch.int8", "before it was quantized"),
        (weights(lambda t: t / 0), f"tensor {QUERY} is not finite", "download it again"),
        (held("tokenizer_config.json", b'{"do_lower_case": "yes"}'), "do_lower_case should be true or false", "correct it"),
        (held("tokenizer_config.json", b'{"tokenizer_class": "BertJapaneseTokenizer"}'), "BertJapanese", "tokenizer.json"),
        (held("added_tokens.json", b'{"<new>": 99}'), '"<new>" was added with the id 99', "tokenizer.json"),
        (held("added_tokens.json", b'{"<new>": "x"}'), "added cannot be understood", "load it again"),
    ],
)  # fmt: skip
def test_damage_is_told(damage: Callable[[Path], None], told: str, fix: str, tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert", "ForSequenceClassification")
    damage(tmp_path / "hf")
    with pytest.raises(DataError, match=told) as error:
        import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert fix in (error.value.fix or "")
    assert not (tmp_path / "ours").exists()


def test_a_config_may_name_only_how_many_labels_there_are(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert", "ForSequenceClassification", num_labels=4)
    path = tmp_path / "hf" / "config.json"
    said = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in ("id2label", "label2id")}
    path.write_text(json.dumps(said | {"num_labels": 4, "architectures": "BertForSequenceClassification"}), encoding="utf-8")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert open_model(tmp_path / "ours").task.labels == [f"LABEL_{i}" for i in range(4)]  # pyright: ignore


def test_what_is_there_under_another_name_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "bert-small").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("hello\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, near in (("./bert", ""), ("models/bert-smal", "bert-small"), ("note.txt", "notes.txt")):
        with pytest.raises(UsageError, match=f"there is no such file or directory.*{near}"):
            import_model.run(name, tmp_path / "ours")
    with pytest.raises(DataError, match=r"notes\.txt: is no checkpoint"):
        import_model.run("notes.txt", tmp_path / "ours")


def test_a_repository_of_pickles_alone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path))
    with pytest.raises(UsageError, match=r"has no \.safetensors there") as error:
        import_model.run("someone/bert-old", tmp_path / "ours")
    assert str(error.value.fix).startswith("--trust-pickle")


def test_a_checkpoint_of_transformers_is_to_be_imported_first(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    with pytest.raises(UsageError, match="checkpoint of transformers") as error:
        preflight.find_step(tmp_path / "hf")
    assert error.value.fix == f"encoderkit import {tmp_path / 'hf'} --out runs/base"


def test_a_file_is_never_replaced_by_a_directory(tmp_path: Path) -> None:
    published(tmp_path / "hf", "Bert")
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    import_model.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UsageError, match="is a file, and a directory is written here"):
        import_model.run(str(tmp_path / "hf"), tmp_path / "thesis.txt", overwrite=True)
    with pytest.raises(UsageError, match="is a file, and a directory is written here"):
        export.run(tmp_path / "ours", ["hf"], tmp_path / "thesis.txt", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years"


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder", "tokenizer.json"])
def test_tokens_that_were_added_are_found_in_texts(form: str, tmp_path: Path) -> None:
    """Marks around entities, special ones too; not those of the model, which no text turns into."""
    published(tmp_path / "hf", "Bert", "ForSequenceClassification", num_labels=3)
    hf, size = tmp_path / "hf", len(SPECIAL) + len(WORDS)
    if form == "added_tokens.json":
        (hf / form).write_text(json.dumps({"[E1]": size, "NewWord": size + 1}), encoding="utf-8")
    else:
        fresh = transformers.BertTokenizer.from_pretrained(hf)
        fresh.add_special_tokens({"additional_special_tokens": ["[E1]", "[unused0]"]})
        fresh.add_tokens(["NewWord"])
        fresh.save_pretrained(tmp_path / "saved")
        if form == "tokenizer.json":
            shutil.copytree(tmp_path / "saved", hf, dirs_exist_ok=True)
        else:
            flags = {"lstrip": False, "rstrip": False, "single_word": False}
            marks = {size: ("[E1]", False), size + 1: ("NewWord", True)}
            decoder = {str(i): {"content": text, "normalized": n, "special": not n, **flags} for i, (text, n) in marks.items()}
            said = {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": decoder}
            (hf / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    import_model.run(str(hf), tmp_path / "ours")
    ours = open_model(tmp_path / "ours").tokenizer
    texts = ["the [E1] film[E1]s", "newword NewWord good", "xNewWordy [E1"]
    encoded = ours.encode(texts)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved" if form == "tokenizer.json" else hf)
    for i, text in enumerate(texts):
        found = encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        assert found == theirs(text, add_special_tokens=False)["input_ids"], text
    assert size in ours.encode(["[E1]"]).ids
    if form == "tokenizer.json":
        assert ours.encode(["a [unused0] b"]).ids[1] == 1
    assert not set(ours.encode(["[SEP] [MASK]"]).ids.tolist()) & {ours.sep, ours.mask}
    assert export.run(tmp_path / "ours", ["hf"], tmp_path / "back")["parity"]["max_abs_diff"] < 1e-5


def test_sentinels_of_uers_t5s_are_found(tmp_path: Path) -> None:
    """Words of a vocab.txt; fewer of them are words like others."""
    for count, found in ((100, list(range(6, 106))), (99, [])):
        path = tmp_path / f"{count}.txt"
        path.write_text("\n".join([*SPECIAL, *(f"extra{i}" for i in range(count))]) + "\n", encoding="utf-8")
        assert Tokenizer(wordpiece_files(path, lowercase=True)).sentinels == found


def test_nothing_is_unknown_where_bytes_are_read(tmp_path: Path) -> None:
    """One token stands for all of GPT-2's, and for what is unknown too."""
    tokens = tmp_path / "gpt"
    tokens.mkdir()
    torch.manual_seed(0)
    sizes = {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 257}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=256, eos_token_id=256))
    model.save_pretrained(tokens)
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"<|endoftext|>": 256}
    (tokens / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tokens / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    import_model.run(str(tokens), tmp_path / "ours")
    (tmp_path / "x.txt").write_text("a cat 猫\n", encoding="utf-8")
    assert embed(tmp_path / "ours", tmp_path / "x.txt", tmp_path / "x.npy")["unknown"]["tokens"] == 0
