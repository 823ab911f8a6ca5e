"""What encodes five to thirty times faster than `tokenizers`: nanotoken (WordPiece), gigatoken (BPE on bytes), for unigram code
that numba compiles (`text.lattice`), and without it, as for characters, what is remembered (`text.parts`).

The libraries are young and optional (the extra `fast`), and nothing is taken on trust: `Tokenizer.quicken` uses one only
after it gave the same ids for a sample of the corpus at hand, and whoever encodes a corpus goes on comparing.
"""

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple
from unicodedata import is_normalized

import numpy as np
from tokenizers import Tokenizer as Engine

from encoderkit.text.lattice import Lattice
from encoderkit.text.parts import Characters, Laid, Parts, same_pieces

Encode = Callable[[Sequence[str]], Laid]


def equal(one: Laid, other: Laid) -> bool:
    """Whether these are the same ids."""
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Quick(NamedTuple):
    """A faster way to the same ids."""

    name: str
    encode: Encode
    threaded: bool = True
    """Whether it uses all cores by itself."""
    same: Callable[[Laid, Laid], bool] = equal
    """Whether its result is as good as another."""


def quick_engine(engine: Engine, content: Mapping[str, bytes], parallel: bool) -> Quick | None:
    """The library for a tokenizer, `parallel` over all cores or on one; None if it is not installed or does not support it.

    As special tokens are not looked for in text, they are not shown to it; other added ones are, and it may not know them.
    What is remembered is right for the models of sentencepiece that are trained here; others have steps of their own.
    """
    description = json.loads(content["tokenizer.json"])
    if any(not token["special"] for token in description.get("added_tokens") or []):
        return None
    description |= {"added_tokens": [], "post_processor": None}
    try:
        match description["model"].get("type"):
            case "WordPiece":
                return Quick("nanotoken", _nanotoken(description, parallel))
            case "BPE" if not (description["model"]["merges"] or description["model"].get("fuse_unk")):
                return Quick("a table of characters", Characters(description).encode, threaded=False)
            case "BPE":
                return Quick("gigatoken", _gigatoken(engine, description, parallel))
            case "Unigram" if {"tokenizer.model", "encoderkit.json"} <= content.keys():
                return _unigram(description, content["tokenizer.model"], parallel)
            case _:
                return None
    except (ImportError, ValueError, RuntimeError):  # not installed; not supported
        return None


def _unigram(description: Mapping[str, Any], model: bytes, parallel: bool) -> Quick:
    same = same_pieces(description)
    try:
        return Quick("numba", Lattice(description, parallel).encode, same=same)
    except ValueError:
        return Quick("remembered parts", Parts(model, description).encode, threaded=False, same=same)


def _nanotoken(description: dict[str, Any], parallel: bool) -> Encode:
    known = description | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}  # it knows no other, and uses none
    tokenizer = importlib.import_module("nanotoken").Tokenizer.from_json(json.dumps(known))

    def encode(texts: Sequence[str]) -> Laid:
        rows = tokenizer.encode_batch(list(texts), add_special_tokens=False, parallel=parallel)
        return rows.ids, rows.offsets

    return encode


def _gigatoken(engine: Engine, description: dict[str, Any], parallel: bool) -> Encode:
    """It neither normalises nor parts long runs: texts that are not in NFKC go through the normaliser of `tokenizers`
    first, and those with a run that would be parted are encoded there."""
    steps = description["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    parted = [step["length"] for step in steps if step.get("type") == "FixedLength"]
    bytewise = [step for step in steps if step.get("type") != "FixedLength"]
    names = _normalizers(description)
    if len(bytewise) != 1 or len(parted) > 1 or names not in ([], ["NFKC"]):
        raise ValueError("not supported")
    normalizer = engine.normalizer if names else None
    known = description | {"normalizer": None, "pre_tokenizer": bytewise[0]}
    library, ak = importlib.import_module("gigatoken"), importlib.import_module("awkward")
    tokenizer = library.Tokenizer.from_json(json.dumps(known))
    most = parted[0] if parted else None

    def encode(texts: Sequence[str]) -> Laid:
        if normalizer is not None:
            texts = [t if t.isascii() or is_normalized("NFKC", t) else normalizer.normalize_str(t) for t in texts]
        data = [text.encode() for text in texts]
        long = [] if most is None else _with_long_runs(texts, data, most)
        for i in long:
            data[i] = b""
        rows = tokenizer.encode_batch(data, parallel=parallel)
        ids, sizes = np.asarray(ak.flatten(rows)), np.asarray(ak.num(rows))
        if long:
            encodings = engine.encode_batch_fast([texts[i] for i in long], add_special_tokens=False)
            apart = [np.array(encoding.ids, ids.dtype) for encoding in encodings]
            ids = np.insert(ids, np.repeat(np.cumsum(sizes)[long], list(map(len, apart))), np.concatenate(apart))
            sizes[long] = list(map(len, apart))
        return _laid(ids, sizes)

    return encode


def _with_long_runs(texts: Sequence[str], data: list[bytes], most: int) -> list[int]:
    """The texts that may hold a run of letters, of digits, of spaces or of others of more than `most` bytes."""
    joined = np.frombuffer(b"\n".join([b"", *data, b""]), np.uint8)
    begins = np.cumsum([1, *(len(text) + 1 for text in data)])
    spaces = np.flatnonzero((joined == ord(" ")) | (joined - np.uint8(9) < 5))
    words = spaces[:-1][np.diff(spaces) > most]  # with the space before it, such a run is one byte longer
    blank = spaces[: max(0, len(spaces) - most + 1)]
    blank = blank[spaces[len(spaces) - len(blank) :] - blank == most - 1]
    places = np.concatenate([words + 1, blank])
    found: list[int] = np.unique(np.searchsorted(begins, places, "right") - 1).tolist()
    few = most // 4  # a character has four bytes at most
    alike = re.compile(f"[^\\W_]{{{few}}}|[\\W_]{{{few}}}")
    return [i for i in found if 0 <= i < len(texts) and alike.search(texts[i])]


def _normalizers(description: dict[str, Any]) -> list[str]:
    """The kinds of the steps of normalising, in their order."""
    step = description["normalizer"]
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step["type"]]
    return list(chain.from_iterable(_normalizers({"normalizer": one}) for one in step["normalizers"]))


def _laid(ids: np.ndarray, sizes: np.ndarray) -> Laid:
    return ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
