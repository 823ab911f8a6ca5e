"""What a tokenizer recipe says."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from encoderkit.config import Config
from encoderkit.units import Count

TokenizerKind = Literal["wordpiece", "bpe", "unigram", "word", "char"]
SegmenterKind = Literal["zh", "jieba"]


class TokenizerConfig(Config):
    """How text becomes ids."""

    kind: TokenizerKind = "wordpiece"
    """wordpiece (BERT), bpe on bytes (GPT-2, RoBERTa), unigram (sentencepiece), word (spaces and punctuation), char."""
    vocab_size: Count = Field(default=16384, ge=16, le=1_000_000)
    """The most pieces, special tokens included."""
    lowercase: bool = False
    """Fold case; with it, accents are kept unless `strip_accents`."""
    strip_accents: bool = False
    """Remove accents (BERT uncased does)."""
    nfkc: bool = True
    """Unicode compatibility form: full-width letters and digits become ordinary ones."""
    chinese: Literal["auto", "split", "keep"] = "auto"
    """split: each Chinese character a word of its own, so no piece holds two. keep: runs of them are left to the
    algorithm. auto: split for wordpiece and word, keep for bpe and unigram; char needs neither."""
    alphabet: Count | None = Field(default=None, ge=1)
    """The most single characters that enter the vocabulary, the commonest first; the rest are unknown or bytes.
    Not given: as many as fit into half of the vocabulary (char: all of it). bpe needs none, its alphabet is bytes;
    a word tokenizer has none."""
    byte_fallback: bool = False
    """Spell characters outside the vocabulary as bytes instead of [UNK] (unigram; bpe always does)."""
    min_frequency: PositiveInt = 2
    """A piece must occur this often (unigram: a character)."""
    sample: Count | None = Field(default=None, ge=1000)
    """The most bytes of text that training holds in memory; a larger corpus is sampled evenly by document.
    Not given: 100M; 20M for unigram and wherever Chinese is kept together (so for bpe), as training takes ten times the
    time there, and 70 bytes of memory for a byte of Chinese."""
    seed: int = Field(default=17, ge=0, lt=2**63)
    """Chooses the sample."""

    @model_validator(mode="after")
    def _applies(self) -> "TokenizerConfig":
        if self.byte_fallback and self.kind not in ("unigram", "bpe"):
            raise ValueError(f"byte_fallback is for unigram; a tokenizer of kind {self.kind} has [UNK] for what it does not know")
        if self.alphabet and self.kind in ("bpe", "word"):
            reason = "its alphabet is bytes" if self.kind == "bpe" else "its pieces are whole words"
            raise ValueError(f"alphabet is not for {self.kind}: {reason}")
        return self

    def splits_chinese(self) -> bool:
        """`chinese`, with `auto` resolved."""
        return self.chinese == "split" or (self.chinese == "auto" and self.kind in ("wordpiece", "word"))

    def sample_bytes(self) -> int:
        """`sample`, or what stands for it when it is not given."""
        light = self.kind == "char" or self.splits_chinese()
        return self.sample or (100_000_000 if light and self.kind != "unigram" else 20_000_000)


class SegmentConfig(Config):
    """What cuts text without spaces into words."""

    kind: SegmenterKind = "zh"
    """zh: rjieba (the extra `zh`). jieba: the original in Python, for comparisons; slow, and not maintained."""
    dictionary: str | None = None
    """A file of words that are to stay whole, one a line, with frequency and tag if you like: `word 100 n`."""
