"""An open vocabulary: unknown words get ids of their own, for encoders that know a word by its letters."""

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer as Engine


class OpenWords:
    """Words by id: those of a vocabulary, and after them each unknown word from when it is first met."""

    def __init__(self, words: list[str | None], unk: int) -> None:
        self.words = words
        """None where an id is no word; it grows."""
        self._unk = unk
        self._known: dict[str, int] = {}

    def name(self, engine: Engine, texts: Sequence[str], ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """`ids` of `texts` laid end to end, (N,) int64, with an id beyond the vocabulary in place of each [UNK]."""
        ids = ids.astype(np.int64)
        normalize: Callable[[str], str] = engine.normalizer.normalize_str if engine.normalizer else str
        unknown = np.flatnonzero(ids == self._unk)
        for number in np.unique(np.searchsorted(offsets, unknown, "right") - 1).tolist():
            text, first = texts[int(number)], int(offsets[number])
            encoding = engine.encode(text, add_special_tokens=False)
            for place in np.flatnonzero(np.array(encoding.ids) == self._unk).tolist():
                begin, end = encoding.offsets[place]
                ids[first + place] = self._id(normalize(text[begin:end]).strip())  # BERT puts spaces around a Chinese character
        return ids

    def _id(self, word: str) -> int:
        if word not in self._known:
            self._known[word] = len(self.words)
            self.words.append(word)
        return self._known[word]
