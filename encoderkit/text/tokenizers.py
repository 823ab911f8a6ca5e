"""A tokenizer as the rest of the project sees it: texts to arrays of ids, and the five special ids."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from tokenizers import Tokenizer as Engine

from encoderkit import files
from encoderkit.errors import DataError
from encoderkit.text.exact import NORMALIZED_BY, Exact
from encoderkit.text.opened import OpenWords
from encoderkit.text.panics import panics_explained
from encoderkit.text.quick import Quick, quick_engine
from encoderkit.text.segment import Segmenter, token_starts
from encoderkit.text.special import SpecialIds, unspelled
from encoderkit.text.template import template_of
from encoderkit.text.words import as_word, spelling, word_starts, word_tables

MAX_BYTES = 2**30
"""A tokenizer.json is not larger; what is, is something else."""
CACHE = 10_000
"""The most words whose pieces the library remembers."""
LONG_TEXT = 1000
"""Characters; after a longer text it forgets them all: without spaces (Chinese, unigram) a word is as long as its text."""

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "encoderkit.json",
    "report.json",
)
_DECIDING = FILES[:3]  # the files that ids depend on

_STEPS = ("best", "last")
"""Files of a run that name its steps."""
_NAMES = {  # what the special tokens are called in the wild, in the order of preference
    "pad": ("pad_token", "[PAD]", "<pad>"),
    "unk": ("unk_token", "[UNK]", "<unk>"),
    "cls": ("cls_token", "bos_token", "[CLS]", "<s>"),
    "sep": ("sep_token", "eos_token", "[SEP]", "</s>"),
    "mask": ("mask_token", "[MASK]", "<mask>"),
}
_KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram", "WordLevel": "word"}


class Encoded(NamedTuple):
    """Texts as ids, laid end to end."""

    ids: np.ndarray
    """(N,) in the smallest unsigned type that holds the vocabulary."""
    starts: np.ndarray
    """(N,) bool: a word begins here."""
    offsets: np.ndarray
    """(n+1,) int64: text i is ids[offsets[i]:offsets[i+1]]."""
    unknown: int
    """How many of the ids are [UNK]."""
    straddling: int = 0
    """How many of them hold characters of several words of a segmenter."""


class Spans(NamedTuple):
    """Texts as ids, laid end to end, with their places in the text."""

    ids: np.ndarray
    """(N,)"""
    offsets: np.ndarray
    """(n+1,) int64: text i is ids[offsets[i]:offsets[i+1]]."""
    characters: np.ndarray
    """(N, 2) int64: the first character of each token in its text, as it was before normalising, and the one after its last."""


@final
class Tokenizer:
    """Text to ids and back. Made by `open_tokenizer`, or from the files of a freshly trained one.

    Text never turns into special tokens: "[SEP]" in a corpus is five characters like any others.
    """

    def __init__(self, content: Mapping[str, bytes], where: str | Path = "tokenizer") -> None:
        description = _json(content, "tokenizer.json", where)
        if not isinstance(description.get("model"), dict):
            fix = "the tokenizer.json that was published with the weights"
            raise DataError("tokenizer.json has no model; is it a file of the tokenizers library?", where=where, fix=fix)
        with panics_explained("reading tokenizer.json", where):
            self._engine = Engine.from_str(content["tokenizer.json"].decode())
        if "encoderkit.json" not in content and (changed := _kept_apart(description)):
            self._engine, content = Engine.from_str(changed), {**content, **_as_changed(changed, content, where)}
        self._content, self._where = dict(content), where
        self._exact = _exact(self._engine, content, where)
        self._quick: Quick | None = None
        self._opened: OpenWords | None = None
        self._engine.no_truncation()
        self._engine.no_padding()
        self._engine.encode_special_tokens = True
        resize = getattr(self._engine.model, "_resize_cache", None)  # bpe and unigram have one
        if resize is not None:
            resize(CACHE)
        self.vocab_size = 1 + max(self._engine.get_vocab().values(), default=-1)
        ours = _json(content, "encoderkit.json", where) if "encoderkit.json" in content else {}
        self.kind = str(ours.get("kind") or _KINDS.get(description["model"].get("type"), "bpe"))
        self.special = _special_ids(self._engine, content, where)
        self.pad, self.unk, self.cls, self.sep, self.mask = self.special
        try:
            self.template = template_of(description, self.special)
        except (KeyError, TypeError, AttributeError):
            fix = "the tokenizer.json that was published with the weights"
            raise DataError("the post_processor of tokenizer.json cannot be understood", where=where, fix=fix) from None
        self.dtype = np.min_scalar_type(max(self.vocab_size - 1, 1))
        pieces = [self._engine.id_to_token(i) or "" for i in range(self.vocab_size)]
        special = {i for i, t in self._engine.get_added_tokens_decoder().items() if t.special} | set(self.special)
        self._tables = word_tables(pieces, special, spelling(description))

    @property
    def sentinels(self) -> list[int]:
        """The ids of <extra_id_0>, <extra_id_1> and so on, if the tokenizer has any (T5's)."""
        # T5's; pieces of sentencepiece's, in mT5; of a vocab.txt, in the T5s of UER-py.
        for name, least in (("<extra_id_{}>", 1), ("▁<extra_id_{}>", 1), ("extra{}", 100)):
            every = (self._engine.token_to_id(name.format(i)) for i in count())
            found = [id for id in takewhile(lambda id: id is not None, every) if id is not None]
            if len(found) >= least:
                return found
        return []

    @property
    def exact(self) -> bool:
        """Whether texts are normalised by a model of sentencepiece, where tokenizer.json alone would do it otherwise."""
        return self._exact is not None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files that ids depend on."""
        digest = hashlib.sha256()
        for name in _DECIDING:
            data = self._content.get(name, b"")
            digest.update(f"{name} {len(data)}\n".encode() + data)
        return digest.hexdigest()

    def encode(self, texts: Sequence[str], segmenter: Segmenter | None = None) -> Encoded:
        """Texts to ids, no special tokens added; uses the library's threads.

        Words begin where `segmenter` says, which has no part in the ids. Raises `DataError` for a text that the library
        refuses, such as one with half a surrogate pair.
        """
        if segmenter is not None:
            spans = self.spans(texts)
            starts, straddling = token_starts(segmenter.words(texts), spans.characters, spans.offsets)
            return Encoded(spans.ids, starts, spans.offsets, int(np.count_nonzero(spans.ids == self.unk)), straddling)
        with self._explained(texts):
            texts = self._exact.texts(texts) if self._exact else texts
            ids, offsets = self._quickly(texts) or self._laid(texts)
        ids = ids.astype(self.dtype, copy=False)
        starts = word_starts(ids, offsets, self._tables) if len(ids) else np.zeros(0, bool)
        if self._opened is not None:
            ids = self._opened.name(self._engine, texts, ids, offsets)
        return Encoded(ids, starts, offsets, int(np.count_nonzero(ids == self.unk)))

    def spans(self, texts: Sequence[str]) -> Spans:
        """Texts to the same ids, with the characters of each."""
        with self._explained(texts):
            read = self._exact.texts(texts) if self._exact else texts
            encodings = self._engine.encode_batch(read, add_special_tokens=False)
            lists = [(encoding.ids, encoding.offsets) for encoding in encodings]
        del encodings
        if any(len(text) > LONG_TEXT for text in texts):
            self._forget()
        offsets = _ends([len(ids) for ids, _ in lists])
        ids = np.fromiter(chain.from_iterable(ids for ids, _ in lists), self.dtype, offsets[-1])
        if self._opened is not None:
            ids = self._opened.name(self._engine, read, ids, offsets)
        pairs = chain.from_iterable(chain.from_iterable(spans for _, spans in lists))
        characters = np.fromiter(pairs, np.int64, 2 * offsets[-1]).reshape(-1, 2)
        if (exact := self._exact) is not None:
            for i in (i for i, text in enumerate(texts) if text is not read[i]):
                part = slice(offsets[i], offsets[i + 1])
                characters[part] = exact.places(texts[i], characters[part])
        return Spans(ids, offsets, characters)

    def open_up(self) -> list[str | None]:
        """From now on unknown words get ids beyond the vocabulary. The word of each id, None for special ones; it grows."""
        if self._opened is None:
            special = set(self.special)
            words = [None if i in special else self.token(i) for i in range(self.vocab_size)]
            self._opened = OpenWords(words, self.unk)
        return self._opened.words

    def pieces_as_words(self) -> list[str | None]:
        """Of each id the word that it is; None for special tokens and for pieces that continue a word."""
        style = spelling(_json(self._content, "tokenizer.json", self._where))
        special = set(self.special)
        return [None if i in special else as_word(self.token(i), style) for i in range(self.vocab_size)]

    def find(self, piece: str) -> int | None:
        """The id of a piece, None if the vocabulary has none that is written so."""
        return self._engine.token_to_id(piece)

    def quicken(self, sample: Sequence[str], parallel: bool = True) -> str | None:
        """Encode with a much faster library from now on, if one is there that gives the same ids for `sample`; its name."""
        self._quick = quick_engine(self._engine, self._content, parallel)
        if self._quick is not None and not self.agrees(sample):
            self._quick = None
        return self._quick.name if self._quick else None

    @property
    def quick(self) -> bool:
        """Whether `quicken` found a faster library."""
        return self._quick is not None

    @property
    def threaded(self) -> bool:
        """Whether that library uses all cores by itself."""
        return self._quick is not None and self._quick.threaded

    def slow(self) -> None:
        """Encode with the library that tokenizers are defined by again."""
        self._quick = None

    def agrees(self, texts: Sequence[str]) -> bool:
        """Whether the faster library gives the same ids for `texts`, or as likely ones; True where there is none."""
        if self._quick is None:
            return True
        found = self._quickly(texts)
        return found is not None and self._quick.same(found, self._laid(texts))

    def _quickly(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
        """As `_laid`, by the faster library; None where there is none, or it cannot encode these texts."""
        if self._quick is None:
            return None
        try:
            with panics_explained("encoding text", self._where):
                return self._quick.encode(texts)
        except MemoryError:
            raise
        except Exception:  # whatever a young library raises; the other one then says what is wrong with the text
            return None

    def _laid(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of `texts` end to end and where each begins, by the library that tokenizers are defined by."""
        encodings = self._engine.encode_batch_fast(texts, add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        del encodings
        if any(len(text) > LONG_TEXT for text in texts):
            self._forget()
        offsets = _ends([len(ids) for ids in lists])
        return np.fromiter(chain.from_iterable(lists), self.dtype, offsets[-1]), offsets

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Ids to text, special tokens left out."""
        with panics_explained("decoding", self._where):
            return self._engine.decode([int(i) for i in ids])

    def token(self, id: int) -> str:
        """The piece with this id; raises `DataError` if there is none."""
        piece = self._engine.id_to_token(int(id)) if 0 <= id < self.vocab_size else None
        if piece is None:
            raise DataError(f"id {id} is outside the vocabulary of {self.vocab_size} pieces", where=self._where, fix=None)
        return piece

    def save_files(self) -> dict[str, bytes]:
        """The files of a saved tokenizer by name, to be written into another directory."""
        return dict(self._content)

    def _forget(self) -> None:
        clear = getattr(self._engine.model, "_clear_cache", None)
        if clear is not None:
            clear()

    @contextmanager
    def _explained(self, texts: Sequence[str]) -> Iterator[None]:
        """What the library raises in this block, in our words."""
        with panics_explained("encoding text", self._where):
            try:
                yield
            except (TypeError, UnicodeEncodeError, RuntimeError):
                self._explain(texts)
                raise

    def _explain(self, texts: Sequence[str]) -> None:
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"text {i} is {type(text).__name__}, not a text", where=self._where, fix=None) from None
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise DataError(
                    f"text {i} holds half a surrogate pair, which is no character", where=self._where, fix=None
                ) from None


def _kept_apart(description: dict[str, Any]) -> str | None:
    """A tokenizer.json in which no text becomes a special token by the way of the vocabulary, or None if that is so in this one.

    Published models of unigram have the special tokens in it, with scores better than those of any spelling.
    """
    if description["model"].get("type") not in ("Unigram", "WordLevel"):
        return None
    before = description.get("pre_tokenizer") or {"type": "Sequence", "pretokenizers": []}
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    if any(step.get("behavior") == "MergedWithPrevious" for step in steps):
        return None  # as those have that are made here of a model of sentencepiece
    names = [token["content"] for token in description.get("added_tokens") or [] if token["special"]]
    cut = json.loads(unspelled(names).__getstate__())
    return json.dumps({**description, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, cut]}}, ensure_ascii=False)


def _as_changed(tokenizer: str, content: Mapping[str, bytes], where: str | Path) -> dict[str, bytes]:
    """The files of a tokenizer.json that was changed: transformers' class of the family would make up one of its own."""
    said = {**_json(content, "tokenizer_config.json", where), "tokenizer_class": "PreTrainedTokenizerFast"}
    return {"tokenizer.json": tokenizer.encode(), "tokenizer_config.json": json.dumps(said, indent=1).encode()}


def _exact(engine: Engine, content: Mapping[str, bytes], where: str | Path) -> Exact | None:
    """sentencepiece's way of normalising, for a tokenizer that says so and has its model."""
    said = _json(content, "tokenizer_config.json", where).get(NORMALIZED_BY)
    if said != "sentencepiece" or "tokenizer.model" not in content or engine.normalizer is None:
        return None
    return Exact(content["tokenizer.model"], engine.normalizer.normalize_str)


def _ends(sizes: Sequence[int]) -> np.ndarray:
    """(n+1,) where each of n texts of `sizes` tokens begins and the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a directory: one of ours, one of transformers with a tokenizer.json, or that of a model or a run.

    Raises `DataError` if it is not there, damaged, or lacks one of the five special tokens.
    """
    folder = Path(path)
    if not (folder / "tokenizer.json").is_file():
        folder = _of_model(folder)
    if not folder.is_dir():
        reason = "is a file, a tokenizer is a directory" if folder.is_file() else "there is no such directory"
        raise DataError(reason, where=path, fix="encoderkit train-tokenizer --data corpus.txt --out DIR makes one")
    if (folder / files.MANIFEST).is_file():
        files.verify(folder)
    content = {name: (folder / name).read_bytes() for name in FILES if _fits(folder / name)}
    if "tokenizer.json" not in content:
        raise DataError("holds no tokenizer.json", where=path, fix="give the directory that train-tokenizer wrote")
    return Tokenizer(content, path)


def _of_model(folder: Path) -> Path:
    """The tokenizer's directory in that of a model, or of a run; itself where there is none."""
    for step in (".", *((folder / name).read_text("utf-8", "replace").strip() for name in _STEPS if (folder / name).is_file())):
        if (folder / step / "tokenizer" / "tokenizer.json").is_file():
            return folder / step / "tokenizer"
    return folder


def _fits(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.stat().st_size > MAX_BYTES:
        fix = "the tokenizer's file that was published with the weights"
        raise DataError(f"has {path.stat().st_size} bytes; a tokenizer's file has at most {MAX_BYTES}", where=path, fix=fix)
    return True


def _json(content: Mapping[str, bytes], name: str, where: str | Path) -> dict[str, Any]:
    try:
        value = json.loads(content.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not valid JSON ({error})", where=where, fix="load it again") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} holds no JSON object", where=where, fix="load it again")
    return value


def _special_ids(engine: Engine, content: Mapping[str, bytes], where: str | Path) -> SpecialIds:
    said = _json(content, "special_tokens_map.json", where) | _json(content, "tokenizer_config.json", where)
    found: dict[str, int] = {}
    for role, names in _NAMES.items():
        for name in names:
            token = said.get(name) if name.endswith("_token") else name
            token = token.get("content") if isinstance(token, dict) else token
            id = engine.token_to_id(token) if isinstance(token, str) else None
            if id is not None:
                found[role] = id
                break
    if "cls" in found and found["cls"] == found.get("sep"):  # one token stands for all, as in GPT-2
        found |= {role: found["cls"] for role in _NAMES if role not in found}
    if found.keys() == {"pad", "unk", "sep"}:  # the end of a text stands for it, and nothing for a hidden token, as in T5
        found |= {"cls": found["sep"], "mask": found["sep"]}
    missing = [role for role in _NAMES if role not in found]
    if missing:
        raise DataError(
            f"this tokenizer has no {' and no '.join(missing)} token; an encoder needs all of {', '.join(_NAMES)}",
            where=where,
            fix="add them to the tokenizer, or train one: encoderkit train-tokenizer",
        )
    return SpecialIds(**found)
