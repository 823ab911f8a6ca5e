"""The token store: a corpus as ids, memory-mapped, so that its size on disk is no matter for memory.

ids.bin         the ids of all documents one after another, in the smallest unsigned type that holds the vocabulary
starts.bin      one bit a token, least significant first: whether a word begins there (for whole-word masking)
documents.bin   int64 (documents + 1,): document i is ids[offsets[i]:offsets[i + 1]]
hashes.bin      uint64 (documents,): BLAKE2b of the text with a digest of 8 bytes, to choose documents by content
meta.json       sizes, what was unknown and dropped, the sources, the options, and the fingerprint of all of it
tokenizer/      the tokenizer that made it
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from encoderkit import files
from encoderkit.errors import DataError

FORMAT = 1
_AGAIN = "make it anew: encoderkit tokenize ... --overwrite"
_META = "meta.json"
_HASHED = 1024**3  # a store up to this size has its content checked whenever it is opened, a larger one its sizes
_FLUSH = 8 * 1024 * 1024


class SourceFile(NamedTuple):
    """A file that a store was made from."""

    name: str
    format: str
    bytes: int
    sha256: str


class StoreMeta(NamedTuple):
    """What `meta.json` says."""

    format: int
    vocab_size: int
    dtype: str
    documents: int
    tokens: int
    unknown: int
    dropped: dict[str, int]
    bytes: int
    """Of text in the documents, as UTF-8: what bits per byte are counted against."""
    fingerprint: str
    """SHA-256 over the corpus bytes, the tokenizer and the options."""
    tokenizer: dict[str, Any]
    """kind, fingerprint and the ids of the special tokens."""
    options: dict[str, Any]
    sources: list[SourceFile]
    straddling: int = 0
    """Tokens that hold characters of several words of the segmenter."""


def fingerprint(sources: list[SourceFile], tokenizer: str, options: Mapping[str, Any]) -> str:
    """SHA-256 over what a store is made from: corpus bytes in order, the tokenizer's own fingerprint, the options."""
    content = [[source.format, source.bytes, source.sha256] for source in sources]
    facts = {"format": FORMAT, "sources": content, "tokenizer": tokenizer, "options": dict(options)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class StoreWriter:
    """Fills a (staged) folder with a store, whatever the size of the pieces that it is given. A context manager."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self.dtype = np.min_scalar_type(max(vocab_size - 1, 0))
        self.documents = self.tokens = 0
        self._open_tokens, self._bits = 0, np.zeros(0, bool)
        self._files = {name: _Buffered(folder / f"{name}.bin") for name in ("ids", "starts", "documents", "hashes")}
        self._files["documents"].write(np.zeros(1, np.int64))

    def write(self, ids: np.ndarray, starts: np.ndarray, ends: np.ndarray, hashes: np.ndarray) -> int:
        """Append tokens; the number of documents that had none, and are therefore not in the store.

        `ids` and `starts` (n,); `ends` (d,): the place in them after the last token of each document that ends here;
        `hashes` (d,). Tokens after the last end belong to a document that goes on with the next call.
        """
        assert len(ids) == len(starts) and len(ends) == len(hashes)
        lengths = np.diff(ends, prepend=0)
        if len(ends):
            lengths[0] += self._open_tokens
            self._open_tokens = 0
        self._open_tokens += len(ids) - (int(ends[-1]) if len(ends) else 0)
        filled = lengths > 0
        self._files["ids"].write(ids.astype(self.dtype, copy=False))
        self._write_bits(starts)
        self._files["documents"].write(self.tokens + ends[filled].astype(np.int64))
        self._files["hashes"].write(hashes[filled].astype(np.uint64, copy=False))
        self.tokens += len(ids)
        self.documents += int(filled.sum())
        return len(ends) - int(filled.sum())

    def _write_bits(self, starts: np.ndarray) -> None:
        bits = np.concatenate([self._bits, starts])
        whole = len(bits) // 8 * 8
        self._files["starts"].write(np.packbits(bits[:whole], bitorder="little"))
        self._bits = bits[whole:]

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: object) -> None:
        if kind is None:
            assert not self._open_tokens, "the last document has no end"
            self._files["starts"].write(np.packbits(self._bits, bitorder="little"))
        with ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close, kind)


class _Buffered:
    """A file that is written in large pieces."""

    def __init__(self, path: Path) -> None:
        self.writer, self.held = files.Writer(path), bytearray()

    def write(self, array: np.ndarray) -> None:
        self.held += array.tobytes()
        if len(self.held) >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        self.writer.write(bytes(self.held))
        self.held.clear()

    def close(self, kind: type[BaseException] | None) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.writer.__exit__(kind)


def write_meta(folder: Path, meta: StoreMeta) -> None:
    """The last file of a store."""
    value = meta._asdict() | {"kind": "tokens", "sources": [source._asdict() for source in meta.sources]}
    files.write_new(folder / _META, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True))


class TokenStore:
    """A store opened for reading; nothing of it is in memory but what is looked at."""

    def __init__(self, path: Path, meta: StoreMeta) -> None:
        self.path, self.meta = path, meta
        self.ids = _mapped(path / "ids.bin", np.dtype(meta.dtype), meta.tokens)
        """(tokens,)"""
        self.bits = _mapped(path / "starts.bin", np.dtype(np.uint8), (meta.tokens + 7) // 8)
        """(tokens / 8,): `starts` unpacks it."""
        self.offsets = _mapped(path / "documents.bin", np.dtype(np.int64), meta.documents + 1)
        """(documents + 1,) int64: document i is ids[offsets[i]:offsets[i + 1]]."""
        self.hashes = _mapped(path / "hashes.bin", np.dtype(np.uint64), meta.documents)
        """(documents,) uint64: by content, so equal documents have equal ones."""
        if self.offsets[0] != 0 or self.offsets[-1] != meta.tokens:
            raise DataError("the documents do not add up to the tokens; it is damaged", where=path / "documents.bin", fix=_AGAIN)

    @property
    def tokenizer(self) -> Path:
        """The directory of the tokenizer that made it."""
        return self.path / "tokenizer"

    def __len__(self) -> int:
        return self.meta.documents

    def __getitem__(self, document: int) -> np.ndarray:
        """The ids of a document."""
        return self.ids[self.offsets[document] : self.offsets[document + 1]]

    def starts(self, first: int, end: int) -> np.ndarray:
        """(end - first,) bool: where words begin among the tokens first..end."""
        low = first // 8
        bits = np.unpackbits(self.bits[low : (end + 7) // 8], bitorder="little")
        return bits[first - low * 8 : end - low * 8].view(bool)

    def split(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """The documents to train on and those held out (int64, ascending): `share` of them, chosen by content hash.

        Equal documents are on the same side, and a document stays on its side when others are added. At least one is
        held out; raises `DataError` if none is left to train on.
        """
        limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        held = self.hashes <= max(limit, self.hashes.min()) if share > 0 else np.zeros(len(self), bool)
        if held.all():
            message = f"holding out {100 * share:.6g} % of its {len(self)} documents leaves none to train on"
            raise DataError(message, where=self.path, fix="more documents, a smaller share, or a store of its own for dev")
        return np.flatnonzero(~held), np.flatnonzero(held)


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    size = path.stat().st_size
    if size != count * dtype.itemsize:
        raise DataError(f"has {size} bytes where {count * dtype.itemsize} belong; it is damaged", where=path, fix=_AGAIN)
    if count == 0:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r"))  # a plain array over the map: slices of a memmap are slow to make


def open_store(path: str | Path) -> TokenStore:
    """The store in the directory `path`; raises `DataError` that says what is there instead, or what is damaged."""
    folder = Path(path)
    if not folder.exists():
        raise DataError("there is no such token store", where=folder, fix=f"encoderkit tokenize ... --out {folder}")
    found = _kind(folder)
    if found != "tokens":
        fix = f"encoderkit tokenize --tokenizer DIR --data {folder if found == 'file' else 'FILE'} --out DIR"
        raise DataError(f"is {_WHAT[found]}, not a token store", where=folder, fix=fix)
    meta = read_meta(folder)  # first: a store of another version is not a damaged one
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    files.verify(folder, hashes=size <= _HASHED)
    return TokenStore(folder, meta)


_WHAT = {
    "file": "a file",
    "tokenizer": "a tokenizer",
    "run": "a run or a model",
    "other": "a directory of something else",
}


def _kind(folder: Path) -> Literal["tokens", "file", "tokenizer", "run", "other"]:
    if folder.is_file():
        return "file"
    if (folder / _META).is_file() and (folder / "ids.bin").is_file():
        return "tokens"
    if (folder / "recipe.yaml").is_file() or (folder / "model.safetensors").is_file():
        return "run"
    tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json"))
    return "tokenizer" if tokenizer else "other"


def read_meta(folder: Path) -> StoreMeta:
    """What the store in `folder` says of itself; raises `DataError` for a store of another version."""
    value = files.read_json(folder / _META)
    version = value.get("format") if isinstance(value, dict) else None
    if version != FORMAT:
        message = f"is a token store of format {version}; this version of encoderkit reads format {FORMAT}"
        raise DataError(message, where=folder, fix="run encoderkit tokenize again")
    try:
        meta = StoreMeta(**{name: value[name] for name in StoreMeta._fields if name in value})
        return meta._replace(sources=[SourceFile(**source) for source in value["sources"]])
    except (KeyError, TypeError) as error:
        raise DataError(f"is not the meta.json of a token store: {error}", where=folder / _META, fix=_AGAIN) from None
