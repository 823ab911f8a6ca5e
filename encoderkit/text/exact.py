"""Texts as sentencepiece normalises them, where the tokenizers library does otherwise with the same table of characters.

The table also says what several characters become together: ｶﾞ is ガ, the letters of a Korean syllable are the syllable, a vowel
with two marks is one character. sentencepiece takes the longest sequence at each place. The library looks graphemes up: one of
less than six bytes becomes what the shortest sequence that it begins with does, and the rest of it is lost; of a longer one each
character is looked up alone. So ｶﾞ becomes カ and a mark, and of e with two marks the second one goes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import sentencepiece

from encoderkit.text.normalization import SPACE

NORMALIZED_BY = "normalized_by"
"""A key of tokenizer_config.json: "sentencepiece", where its model decides (transformers pays no attention to it)."""


class Exact:
    """Puts texts that the library would read otherwise into a form that it reads as sentencepiece does the text."""

    def __init__(self, model: bytes, normalize: Callable[[str], str]) -> None:
        """`model` is sentencepiece's, `normalize` what the library does to a text."""
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model)  # pyright: ignore[reportCallIssue]
        self._normalize = normalize

    def texts(self, texts: Sequence[str]) -> list[str]:
        """The texts, those normalised that the library would read otherwise; raises `RuntimeError` for half a surrogate pair."""
        normal: list[str] = self._model.normalize(list(texts))  # pyright: ignore[reportAttributeAccessIssue]
        spaced = [text.replace(SPACE, " ") for text in normal]
        read = map(self._normalize, texts)
        return [a if b.strip(" ") == c.strip(" ") else c for a, b, c in zip(texts, read, spaced, strict=True)]

    def places(self, text: str, spans: np.ndarray) -> np.ndarray:
        """(N, 2) from where to where in `text` stands what `spans` (N, 2) are in what `texts` gives for it."""
        _, begins = self._model.normalize(text, with_offsets=True)  # pyright: ignore[reportAttributeAccessIssue]
        begins = np.array(begins)
        # What becomes several characters ends where the next one begins.
        ends = np.append(begins, len(text))[np.searchsorted(begins, begins, "right")]
        return np.stack([begins[spans[:, 0]], ends[np.maximum(spans[:, 1] - 1, 0)]], 1)
