"""The tokenizers of published checkpoints, in whatever files they come, as the files that `open_tokenizer` reads."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from encoderkit.errors import DataError
from encoderkit.text.alphabet import is_han
from encoderkit.text.normalization import words_decoder
from encoderkit.text.panics import panics_explained
from encoderkit.text.pieces import pieces_files
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK

KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
PIECES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
"""What sentencepiece's file is called in the wild."""
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}


def foreign_files(folder: Path) -> dict[str, bytes]:
    """The files of our form of the tokenizer in a directory of transformers.

    tokenizer.json as it is; vocab.txt (WordPiece), vocab.json with merges.txt (byte-level BPE) and models of sentencepiece are
    converted. Raises `DataError` if there is none of them.
    """
    if (folder / "tokenizer.json").is_file():
        return _with_layout({name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}, folder)
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
    for path in (folder / name for name in PIECES):
        if path.is_file():
            described = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
            return pieces_files(path.read_bytes(), str(_json(folder / "config.json").get("model_type")), described, path)
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
        raise DataError(
            f"this vocabulary {reason}; is it that of a BERT?",
            where=vocabulary,
            fix="the vocab.txt that was published with the weights",
        )
    with panics_explained("reading the vocabulary", vocabulary):
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(True, chinese, strip_accents, lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = words_decoder("##")
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
        if missing := [names[role] for role in ("cls_token", "sep_token") if names[role] not in vocab]:
            raise DataError(
                f"lacks {' and '.join(missing)}, with which its texts begin and end",
                where=folder / "vocab.json",
                fix="the vocab.json that was published with the weights",
            )
        cls, sep = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.RobertaProcessing((sep, vocab[sep]), (cls, vocab[cls]), True, space)
    return _with_layout(_files(tokenizer, names), folder)


def _with_layout(found: dict[str, bytes], where: Path) -> dict[str, bytes]:
    """The files, with the layout of texts and the token of padding written out where one token stands for all, as in GPT-2.

    Its own tokenizer puts nothing around a text. Here it stands before, so that an empty text is one too; what goes back
    to transformers is then read there as it is here.
    """
    parts = [_object(found.get(name, b"{}"), where / name) for name in ("special_tokens_map.json", "tokenizer_config.json")]
    said = parts[0] | parts[1]
    names = _names(dict.fromkeys(("bos_token", "eos_token", "pad_token"), ""), said)
    end = names["eos_token"]
    if not end or names["bos_token"] != end or names["pad_token"] not in ("", end, "None"):
        return found
    with panics_explained("reading tokenizer.json", where):
        tokenizer = Tokenizer.from_str(found["tokenizer.json"].decode())
    if tokenizer.num_special_tokens_to_add(False):
        return found
    ids = [(end, tokenizer.token_to_id(end))]
    layout = processors.TemplateProcessing(f"{end} $A", f"{end} $A {end} $B:0", ids)
    before = tokenizer.post_processor
    tokenizer.post_processor = layout if before is None else processors.Sequence([before, layout])
    described = {**said, "pad_token": end, "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
    return {
        **found,
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(described, indent=1).encode(),
    }


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


def _json(path: Path) -> dict[str, Any]:
    return _object(_text(path), path) if path.is_file() else {}


def _object(data: str | bytes, where: Path) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})", where=where, fix="load it again") from None
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("not text in UTF-8", where=path, fix="load it again") from None


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
