"""The special tokens: the same five, with the same ids, in every tokenizer that is trained here."""

from typing import NamedTuple

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class SpecialIds(NamedTuple):
    """Ids of the special tokens; the defaults are those of every tokenizer trained here."""

    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4
