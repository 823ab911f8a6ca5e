"""The tokenizers of published checkpoints, in whatever files they come, as the files that `open_tokenizer` reads."""

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from encoderkit.errors import DataError, MissingDependency
from encoderkit.text.alphabet import is_han
from encoderkit.text.panics import panics_explained
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK

KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
PIECES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
"""What sentencepiece's file is called in the wild."""
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}


def foreign_files(folder: Path) -> dict[str, bytes]:
    """The files of our form of the tokenizer in a directory of transformers.

    tokenizer.json as it is, vocab.txt (WordPiece) and vocab.json with merges.txt (byte-level BPE) built here, sentencepiece's
    models converted by transformers, which knows what each family adds to them. Raises `DataError` if there is none of them,
    `MissingDependency` without transformers where it is needed.
    """
    if (folder / "tokenizer.json").is_file():
        return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}
    if (folder / "vocab.txt").is_file():
        described = _json(folder / "tokenizer_config.json")
        return wordpiece_files(
            folder / "vocab.txt",
            lowercase=described.get("do_lower_case", True),
            strip_accents=described.get("strip_accents"),
            chinese=described.get("tokenize_chinese_chars", True),
            said=described,
        )
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_bpe(folder)
    if any((folder / name).is_file() for name in PIECES):
        return _converted(folder)
    wanted = "tokenizer.json, vocab.txt, vocab.json with merges.txt, or a model of sentencepiece"
    raise DataError(f"holds no tokenizer: none of {wanted}", where=folder, fix="put the tokenizer's files beside the weights")


def wordpiece_files(
    vocabulary: Path, lowercase: bool, strip_accents: bool | None = None, chinese: bool = True, said: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """BERT's tokenizer from a vocab.txt, one piece a line; without `strip_accents` they go where case does, as in BERT."""
    pieces = _text(vocabulary).rstrip("\n").split("\n")
    ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    names = _names(_BERT, said)
    missing = [token for token in names.values() if token not in ids]
    if missing or len(ids) != len(pieces):
        reason = f"lacks {', '.join(missing)}" if missing else "has a piece twice"
        raise DataError(f"this vocabulary {reason}; is it that of a BERT?", where=vocabulary)
    with panics_explained("reading the vocabulary", vocabulary):
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(True, chinese, strip_accents, lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    return _files(tokenizer, names)


def _byte_bpe(folder: Path) -> dict[str, bytes]:
    described = _json(folder / "tokenizer_config.json")
    with panics_explained("reading vocab.json and merges.txt", folder):
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = Tokenizer(models.BPE(vocab, merges))
    said = _json(folder / "special_tokens_map.json") | described
    gpt = "<s>" not in vocab
    end = "<|endoftext|>"
    names = _names({"unk_token": end, "bos_token": end, "eos_token": end} if gpt else _ROBERTA, said)
    space = bool(described.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    if not gpt:
        cls, sep = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.RobertaProcessing((sep, vocab[sep]), (cls, vocab[cls]), True, space)
    return _files(tokenizer, names)


def _files(tokenizer: Tokenizer, names: dict[str, str]) -> dict[str, bytes]:
    special = [AddedToken(token, lstrip=role == "mask_token" and token == "<mask>") for role, token in names.items()]
    tokenizer.add_special_tokens(special)
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "clean_up_tokenization_spaces": False}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(described, indent=1).encode(),
        "special_tokens_map.json": json.dumps(names, indent=1).encode(),
    }


def _names(usual: dict[str, str], said: dict[str, Any] | None) -> dict[str, str]:
    """The special tokens by role: as `said`, a text or a mapping with its content, or the `usual` ones."""
    found = {role: (said or {}).get(role, token) for role, token in usual.items()}
    return {role: str(token["content"] if isinstance(token, dict) else token) for role, token in found.items()}


def _converted(folder: Path) -> dict[str, bytes]:
    if importlib.util.find_spec("transformers") is None:
        message = "a tokenizer of sentencepiece is converted by transformers, which is not installed"
        raise MissingDependency(message, where=folder, fix="pip install 'encoderkit[hf]'")
    transformers = importlib.import_module("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        content = tokenizer.backend_tokenizer.to_str().encode()
    except Exception as error:  # whatever another library raises for a file that is damaged
        raise DataError(f"transformers cannot read this tokenizer: {str(error).splitlines()[0]}", where=folder) from None
    names = {role: str(token) for role, token in tokenizer.special_tokens_map.items() if role.endswith("_token")}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "clean_up_tokenization_spaces": False}
    model = next(folder / name for name in PIECES if (folder / name).is_file())
    return {
        "tokenizer.json": content,
        "tokenizer_config.json": json.dumps(described, indent=1).encode(),
        "special_tokens_map.json": json.dumps(names, indent=1).encode(),
        "tokenizer.model": model.read_bytes(),
    }


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})", where=path) from None
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("not text in UTF-8", where=path) from None


def word_files(words: list[str]) -> tuple[dict[str, bytes], list[str]]:
    """A tokenizer of whole words for a file of word vectors, and its pieces after the five special ones.

    Text is split at spaces and punctuation; it is folded to lower case where no word of the file has a capital, and a run of
    Chinese characters is one word where any word of the file has several: such text has to come with spaces between words.
    """
    kept = [word for word in words if word not in SPECIAL]
    han = any(sum(is_han(ord(c)) for c in word) > 1 for word in kept)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *kept])}, unk_token=UNK))
    lower = all(word == word.lower() for word in kept)
    tokenizer.normalizer = normalizers.BertNormalizer(True, not han, False, lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SEP, SPECIAL.index(SEP)), (CLS, SPECIAL.index(CLS)))
    names = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}
    return _files(tokenizer, names) | {"encoderkit.json": b'{"kind": "word"}'}, kept
