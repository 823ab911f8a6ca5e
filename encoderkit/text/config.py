"""What a tokenizer recipe says."""

from typing import Literal

from pydantic import Field, PositiveInt

from encoderkit.config import Config
from encoderkit.units import Count

TokenizerKind = Literal["wordpiece", "bpe", "unigram", "word", "char"]


class TokenizerConfig(Config):
    """How text becomes ids."""

    kind: TokenizerKind = "wordpiece"
    """wordpiece (BERT), bpe on bytes (GPT-2, RoBERTa), unigram (sentencepiece), word (spaces and punctuation), char."""
    vocab_size: Count = Field(16384, ge=16)
    """The most pieces, special tokens included."""
    lowercase: bool = False
    """Fold case; with it, accents are kept unless `strip_accents`."""
    strip_accents: bool = False
    """Remove accents (BERT uncased does)."""
    nfkc: bool = True
    """Unicode compatibility form: full-width letters and digits become ordinary ones."""
    chinese: Literal["split", "keep"] = "split"
    """Each Chinese character a word of its own, or runs of them left to the algorithm."""
    alphabet: Count | None = Field(None, ge=1)
    """The most single characters that enter the vocabulary, the commonest first; the rest are unknown or bytes."""
    byte_fallback: bool = False
    """Spell characters outside the vocabulary as bytes instead of [UNK] (unigram; bpe always does)."""
    min_frequency: PositiveInt = 2
    """A piece must occur this often."""
    sample: Count = Field(100_000_000, ge=1000)
    """The most bytes of text that training looks at; a larger corpus is sampled evenly by document."""
    seed: int = 17
    """Chooses the sample."""
