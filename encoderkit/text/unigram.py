"""Unigram tokenizers (Kudo 2018, Subword Regularization, section 3.2): trained by sentencepiece, run by tokenizers.

Both files describe the same thing: the `.model` is sentencepiece's, the tokenizer.json is made from it here. They agree
because the normaliser is ours on both sides: the tokenizers library applies it, and sentencepiece gets a table of what
it does to every character. Where two ways of cutting a text are equally likely, to about 1e-7 of the sum of their
scores, either may come out: sentencepiece adds in single precision, tokenizers in double (3 of 16,000 real lines).
"""

import io
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from encoderkit.text.alphabet import HAN_CLASS, composed
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.normalization import SPACE, characters_normalizer, normalizer
from encoderkit.text.sampling import Kept, cut
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK

LONGEST_LINE = 4096
"""Bytes; sentencepiece drops lines of more than 4,192 without a word, so longer ones are cut before it sees them."""
RESERVED = "\u2585"
"""sentencepiece drops whole lines that hold this character, its own sign for the unknown."""
BETWEEN = "\uf8ff"
"""Put where no piece may cross; a private character that the normaliser leaves alone, taken out of the text before."""
BORDER = "\U0010ffff"
"""No character (and never will be): no normaliser touches it, and nothing composes with it."""
THREADS = 4
"""Of the trainer. Fixed: sums of floats, and so the pieces, depend on how the work is shared."""
PATH = 128
"""Length of the path of a temporary file that ends up in the `.model`: the same wherever the temporary folder is."""
NEVER_CHOSEN = -1000.0
"""The score of special tokens and of bytes in tokenizer.json: worse than any way of spelling them, so text never becomes one."""
SPELLING = "".join(sorted(set("".join(SPECIAL))))
"""These characters are always in the vocabulary, for the same reason."""
BYTES = "<>0123456789ABCDEFx"
"""And these, in which the pieces of bytes are written, where there are such."""


def train_unigram(texts: Kept, config: TokenizerConfig, rare: set[str]) -> tuple[Tokenizer, bytes, dict[str, int]]:
    """Train on `texts`; the characters of `rare` are taken out of it beforehand, and no piece spans the place.

    Gives the tokenizer, the `.model` and the bytes that were dropped for a reason.
    """
    dropped = {"reserved_character": 0, "outside_alphabet": 0}
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv".rjust(PATH - 1 - len(folder), "-")
        rules.write_text(_rules(config), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, config.splits_chinese(), rare, dropped),
            model_writer=model,
            model_type="unigram",
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,  # a small text makes a smaller vocabulary instead of an error
            character_coverage=1.0,
            required_chars=SPELLING + (BYTES if config.byte_fallback else ""),
            byte_fallback=config.byte_fallback,
            max_sentence_length=LONGEST_LINE + 4,
            seed_sentencepiece_size=max(200_000, 12 * config.vocab_size),
            shrinking_factor=0.5,
            num_threads=THREADS,
            normalization_rule_tsv=str(rules),
            pretokenization_delimiter=BETWEEN,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=PAD,
            unk_piece=UNK,
            bos_piece=CLS,
            eos_piece=SEP,
            control_symbols=[MASK],
            minloglevel=2,
        )
    # The model remembers the path of the rules; it is of no use to anybody and differs from run to run.
    content = model.getvalue().replace(str(rules).encode(), b"-" * len(str(rules)))
    return _converted(content, config), content, {k: n for k, n in dropped.items() if n}


def _lines(texts: Kept, split: bool, rare: set[str], dropped: dict[str, int]) -> Iterator[str]:
    han = re.compile(f"({HAN_CLASS})")
    outside = re.compile("[" + re.escape("".join(sorted(rare | {RESERVED}))) + "]")
    known = np.ones(0x110000, bool)  # a look at every character by a regular expression takes ten times as long
    known[[ord(character) for character in (*rare, RESERVED, BETWEEN)]] = False
    for text in map(composed, texts):
        if not known[np.frombuffer(text.encode("utf-32-le"), np.uint32)].all():
            for character in filter(None, "".join(outside.findall(text))):
                reason = "reserved_character" if character == RESERVED else "outside_alphabet"
                dropped[reason] += len(character.encode())
            text = outside.sub(BETWEEN, text.replace(BETWEEN, ""))
        if split:
            text = han.sub(rf"{BETWEEN}\1{BETWEEN}", text)
        for line in filter(None, text.split("\n")):
            if len(line) <= LONGEST_LINE // 4 or (line.isascii() and len(line) <= LONGEST_LINE):
                yield line
            else:
                yield from (piece.decode() for piece in cut(line.encode(), LONGEST_LINE))


def _rules(config: TokenizerConfig) -> str:
    """What the normaliser does to each character, and to each sequence that composes to one, in sentencepiece's form.

    Korean syllables written in letters (jamo) are left out: 11,172 rules for what hardly occurs.
    """
    rule = characters_normalizer(config).normalize_str
    rows: dict[str, str] = {}
    codes = (*range(1, 0x20), *range(0x21, 0xAC00), *range(0xF900, 0x32000), *range(0xE0000, 0xE1000))
    characters = list(map(chr, codes))
    results = re.sub(r"\s", " ", rule(BORDER.join(characters))).split(BORDER)
    for character, result in zip(characters, results, strict=True):
        if result != character:
            rows[character] = result
        for sequence in _sequences(character):
            rows.setdefault(sequence, re.sub(r"\s", " ", rule(sequence)))
    return "".join(f"{_hex(source)}\t{_hex(target)}\n" for source, target in sorted(rows.items()) if source != target)


def _sequences(character: str) -> set[str]:
    parts = unicodedata.decomposition(character)
    if not parts or parts.startswith("<"):
        return set()
    whole, first = unicodedata.normalize("NFD", character), "".join(chr(int(p, 16)) for p in parts.split())
    return {s for s in (whole, first) if len(s) > 1}


def _hex(text: str) -> str:
    return " ".join(f"{ord(c):X}" for c in text)


def decoder() -> decoders.Sequence:
    """Pieces of sentencepiece to text, in the tokenizers library."""
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def _converted(model: bytes, config: TokenizerConfig) -> Tokenizer:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    told_apart = (processor.is_control, processor.is_unknown, processor.is_byte)
    pieces = [
        (processor.id_to_piece(i), NEVER_CHOSEN if any(is_so(i) for is_so in told_apart) else processor.get_score(i))
        for i in range(size)
    ]
    assert [p for p, _ in pieces[: len(SPECIAL)]] == list(SPECIAL), pieces[: len(SPECIAL)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=config.byte_fallback))
    tokenizer.normalizer = normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoder()
    return tokenizer
