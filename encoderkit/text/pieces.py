"""The models of sentencepiece that checkpoints of T5, ALBERT, XLNet, DeBERTa and their like come with, as tokenizer.json.

sentencepiece knows pieces and how a text is normalised before it is cut; what a family does to a text before that, which special
tokens it adds and where, stands in the code of its authors, and here. The ids are those that the model was trained with:
special tokens have no spelling, and symbols that the authors defined ("(", "-", ...) are pieces like others.
"""

import struct
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from encoderkit.errors import DataError
from encoderkit.text.exact import NORMALIZED_BY
from encoderkit.text.special import files_of, unspelled
from encoderkit.text.unigram import decoder

_MARKS = "[" + "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code))) + "]"
"""What Python calls combining, as the authors do: vowel signs of Hindi are not."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Types of pieces; only those of the first and the fourth are cut out of a text."""


class Family(NamedTuple):
    """What stands in the code of a family's authors."""

    names: dict[str, str]
    """The special tokens by role."""
    single: str
    """The layout of a text, in the language of the library, with roles in place of tokens."""
    pair: str
    quotes: bool = False
    """`` and '' are one character, and accents go, before sentencepiece sees the text."""
    lowercase: bool = False
    sentinels: int = 0
    """Tokens <extra_id_0> and so on after the pieces, the last first."""
    first: tuple[str, ...] = ()
    """Pieces that stand in place of the first ones of the model, as in fairseq, where the authors trained."""
    replaced: int = 0
    """How many these are in the model: controls, and what is unknown."""


_BERT = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_FIRST = ("cls:0 $A:0 sep:0", "cls:0 $A:0 sep:0 $B:1 sep:1")
_XLNET = {"pad": "<pad>", "unk": "<unk>", "cls": "<cls>", "sep": "<sep>", "mask": "<mask>"}
_T5 = Family({"pad": "<pad>", "unk": "<unk>", "eos": "</s>"}, "$A:0 eos:0", "$A:0 eos:0 $B:0 eos:0", sentinels=100)
_FAIRSEQ = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_TWICE = ("cls:0 $A:0 sep:0", "cls:0 $A:0 sep:0 sep:0 $B:0 sep:0")
FAMILIES = {
    "albert": Family({**_BERT, "pad": "<pad>", "unk": "<unk>"}, *_FIRST, quotes=True, lowercase=True),
    "xlnet": Family(_XLNET, "$A:0 sep:0 cls:2", "$A:0 sep:0 $B:1 sep:1 cls:2", quotes=True),
    "deberta-v2": Family(_BERT, *_FIRST),
    "t5": _T5,
    "mt5": _T5._replace(sentinels=0),  # it has them among its pieces
    "xlm-roberta": Family(_FAIRSEQ, *_TWICE, first=("<s>", "<pad>", "</s>", "<unk>"), replaced=3),
    "camembert": Family(_FAIRSEQ, *_TWICE, first=("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), replaced=1),
}
"""By the `model_type` of a config.json; others are taken for a BERT's."""


def pieces_files(model: bytes, model_type: str, said: Mapping[str, Any], where: object) -> dict[str, bytes]:
    """The files of a tokenizer from a model of sentencepiece; `said` is what its tokenizer_config.json says.

    Raises `DataError` for a model that is damaged or of another kind than unigram.
    """
    family = FAMILIES.get(model_type, Family(_BERT, *_FIRST))
    try:
        found = _placed(_read(model), family)
        tokenizer = _engine(found, family, said)
    except (IndexError, struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        fix = "load it again; of BPE a tokenizer.json is read"
        raise DataError(f"cannot be read as a unigram model of sentencepiece ({error})", where=str(where), fix=fix) from None
    names = {f"{role}_token": name for role, name in _names(family, said).items()}
    more = {"padding_side": "left" if family.single.endswith("cls:2") else "right"}
    if isinstance(next(iter(_steps(found, family, said)), None), normalizers.Precompiled):
        more[NORMALIZED_BY] = "sentencepiece"
    return {**files_of(tokenizer, names, **more), "tokenizer.model": model}


def _names(family: Family, said: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by role: as `said`, a text or a mapping with its content, or the usual ones."""
    found = {role: said.get(f"{role}_token") or token for role, token in family.names.items()}
    return {role: str(token["content"] if isinstance(token, dict) else token) for role, token in found.items()}


def _placed(model: "_Model", family: Family) -> "_Model":
    """The model with the pieces of the family's own in place of its first ones."""
    if not family.first:
        return model
    if any(kind not in (UNKNOWN, CONTROL) for _, _, kind in model.pieces[: family.replaced]):
        raise ValueError(f"its first {family.replaced} pieces are not those of such a model")
    own = [(text, 0.0, UNKNOWN if text == family.names["unk"] else CONTROL) for text in family.first]
    return model._replace(pieces=[*own, *model.pieces[family.replaced :]])


def _engine(model: "_Model", family: Family, said: Mapping[str, Any]) -> Tokenizer:
    pieces = [(text, score) for text, score, _ in model.pieces]
    unknown = next(i for i, piece in enumerate(model.pieces) if piece[2] == UNKNOWN)
    in_bytes = any(kind == BYTE for _, _, kind in model.pieces)
    tokenizer = Tokenizer(Unigram(pieces, unk_id=unknown, byte_fallback=in_bytes))
    tokenizer.normalizer = normalizers.Sequence(_steps(model, family, said))
    split = [pre_tokenizers.Punctuation("isolated")] if said.get("split_by_punct") else []
    spaces = pre_tokenizers.Metaspace(prepend_scheme=model.space)
    special = [text for text, _, kind in model.pieces if kind not in (NORMAL, USER_DEFINED, BYTE)]
    apart = unspelled(special, in_bytes)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, spaces, apart])
    tokenizer.decoder = decoder()
    names = _names(family, said)
    tokenizer.add_special_tokens([AddedToken(names[role], lstrip=role == "mask", normalized=False) for role in names])
    count = said.get("extra_ids", family.sentinels) if "eos" in family.names else 0
    tokenizer.add_special_tokens([AddedToken(f"<extra_id_{i}>", normalized=False) for i in range(count - 1, -1, -1)])

    def laid(template: str) -> str:
        parts = (part.partition(":") for part in template.split())
        return " ".join(f"{names.get(name, name)}:{segment}" for name, _, segment in parts)

    ids = [(name, tokenizer.token_to_id(name)) for role, name in names.items() if role in ("cls", "sep", "eos")]
    tokenizer.post_processor = processors.TemplateProcessing(laid(family.single), laid(family.pair), ids)
    return tokenizer


def _steps(model: "_Model", family: Family, said: Mapping[str, Any]) -> list[Any]:
    steps: list[Any] = []
    if family.quotes:
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        # Korean syllables are put together again: sentencepiece would do it, the library's version of its table does not.
        marks = normalizers.Replace(Regex(_MARKS), "")
        steps += [] if said.get("keep_accents") else [normalizers.NFKD(), marks, normalizers.NFC()]
    if said.get("do_lower_case", family.lowercase):
        steps.append(normalizers.Lowercase())
    if model.characters:
        steps.append(normalizers.Precompiled(model.characters))
    if not model.trims:
        return steps
    # Runs of spaces are one, and there are none at the ends; other white space is one where the authors' code says so.
    space = r"[\s▁]+" if family.quotes else "[ ▁]+"
    return [*steps, normalizers.Replace(Regex(rf"\A{space}|{space}\z"), ""), normalizers.Replace(Regex(space), " ")]


class _Model(NamedTuple):
    """What a file of sentencepiece says, as far as it matters here."""

    pieces: list[tuple[str, float, int]]
    """Text, score and type of each."""
    characters: bytes
    """The table of what characters become."""
    space: str
    """Where a space is put before a text: always or never."""
    trims: bool
    """Whether spaces more than one, and those at the ends, go."""


def _read(data: bytes) -> _Model:
    """Parse sentencepiece_model.proto's ModelProto: pieces 1, trainer 2 (model_type 3), normaliser 3."""
    pieces, kind, rules = [], 1, {}
    for number, value in _fields(data):
        if number == 1:
            piece = dict(_fields(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece.get(2, bytes(4)))[0], piece.get(3, NORMAL)))
        elif number == 2:
            kind = dict(_fields(value)).get(3, 1)
        elif number == 3:
            rules = dict(_fields(value))
    if kind != 1 or not pieces:
        raise ValueError("it holds no pieces" if kind == 1 else "its pieces are of another kind, such as BPE")
    return _Model(pieces, rules.get(2, b""), "always" if rules.get(3, 1) else "never", bool(rules.get(4, 1)))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of Protocol Buffers: number, and an integer or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        match key & 7:
            case 0:
                yield key >> 3, varint()
            case 1 | 2 | 5 as wire:
                size = varint() if wire == 2 else 8 if wire == 1 else 4
                at += size
                if at > len(data):
                    raise ValueError("it is cut short")
                yield key >> 3, data[at - size : at]
            case _:
                raise ValueError("it is no message of Protocol Buffers")
