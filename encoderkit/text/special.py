"""The special tokens: the same five, with the same ids, in every tokenizer that is trained here."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer, Split

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class SpecialIds(NamedTuple):
    """Ids of the special tokens; the defaults are those of every tokenizer trained here."""

    pad: int = 0
    unk: int = 1
    cls: int = 2
    sep: int = 3
    mask: int = 4


def files_of(tokenizer: Tokenizer, names: Mapping[str, str], **more: Any) -> dict[str, bytes]:
    """The files of a tokenizer for transformers; `names`: the special tokens by role, `more`: what else it is to know."""
    described = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "clean_up_tokenization_spaces": False, **more}
    parts = {"tokenizer_config.json": described, "special_tokens_map.json": names}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        **{name: json.dumps(part, indent=1).encode() for name, part in parts.items()},
    }


def unspelled(names: Iterable[str], byte_pieces: bool = False) -> PreTokenizer:
    """A cut after the first character of what is written as one of `names`, or as a byte (<0x41>): no text becomes one."""
    cuts = [f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names if len(name) > 1]
    cuts += ["<(?=0x[0-9A-F]{2}>)"] if byte_pieces else []
    return Split(Regex("|".join(cuts) or "(?!)"), "merged_with_previous")
