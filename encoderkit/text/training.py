"""Training a tokenizer: a stream of texts to the files of a saved one, in bounded memory, the same files every time."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import encoderkit
from encoderkit.errors import DataError, UsageError
from encoderkit.text.alphabet import HAN_CLASS, count_characters, is_han, normalized_counts
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.normalization import SPACE, characters_normalizer, normalizer
from encoderkit.text.panics import panics_explained
from encoderkit.text.sampling import Kept, Sample, draw
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK
from encoderkit.text.unigram import SPELLING, train_unigram

KEPT_CHINESE, KEPT_BYTES = 64, 96
"""The longest run that wordpiece (characters) and bpe (bytes) see as one word. Text without spaces would otherwise make
words of any length, and time and memory with them; no ordinary word is as long."""


LONGEST_WORD = 100
"""Characters. Training time grows with the square of a word's length: a line of 400,000 letters took five minutes.
For wordpiece a longer word is [UNK] anyway, as in BERT."""
_LONG = re.compile(rf"\S{{{LONGEST_WORD}}}")


class Trained(NamedTuple):
    """A trained tokenizer: its files by name, and the sample that it was made from."""

    files: dict[str, bytes]
    sample: Sample
    dropped: dict[str, int]
    """Bytes of the corpus left out for a reason."""


def train(texts: Iterator[str], config: TokenizerConfig) -> Trained:
    """Train the tokenizer that `config` describes on a sample of `texts`.

    Raises `UsageError` when the vocabulary cannot hold what it must, `DataError` when there is no text.
    """
    sample = draw(texts, config.sample_bytes(), config.seed)
    if not sample.training.amount.bytes:
        raise DataError("there is no text to train a tokenizer on", fix="look at the files given with --data")
    dropped, extra = dict(sample.dropped), dict[str, bytes]()
    with panics_explained("training the tokenizer"):
        if config.kind == "unigram":
            tokenizer, extra["tokenizer.model"], reserved = _unigram(sample.training, config)
            dropped |= reserved
        else:
            tokenizer = _TRAIN[config.kind](sample.training, config)
    if tokenizer.get_vocab_size() > config.vocab_size:
        size = tokenizer.get_vocab_size()
        raise UsageError(f"the smallest vocabulary for this text has {size} pieces", fix=f"--vocab-size {size}")
    return Trained(_files(_finished(tokenizer), config) | extra, sample, dropped)


def lines(texts: Kept) -> Iterator[str]:
    """The lines of the documents, by which the library shares the work among threads, with overlong words parted."""
    for text in texts:
        for line in filter(None, text.split("\n")):
            if len(line) > LONGEST_WORD and max(map(len, line.split()), default=0) > LONGEST_WORD:
                line = _LONG.sub(r"\g<0> ", line)
            yield line


def _alphabet(raw: dict[str, int], config: TokenizerConfig, room: int) -> list[str]:
    """The characters that enter the vocabulary: the commonest, `config.alphabet` of them or what fits into `room`.

    Characters rarer than `min_frequency` stay out. A wordpiece character counts twice if it can continue a word.
    """
    counts = normalized_counts(raw, characters_normalizer(config).normalize_str)
    common = [c for c, n in counts.items() if n >= config.min_frequency]
    if config.alphabet is not None:
        return common[: config.alphabet]
    chosen: list[str] = []
    for character in common:
        room -= 2 if config.kind == "wordpiece" and continues(character, config) else 1
        if room < 0:
            break
        chosen.append(character)
    return chosen


def continues(character: str, config: TokenizerConfig) -> bool:
    """Whether a character can stand inside a word of BERT's pre-tokenizer and so needs a piece with ##."""
    if is_han(ord(character)):
        return not config.splits_chinese()
    return pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{character}")[0][0] != "a"


def _wordpiece(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    alphabet = sorted(_alphabet(count_characters(texts), config, config.vocab_size // 2))
    # The trainer numbers ##-characters in the order of a hash table and breaks ties by number: given as special tokens
    # they have fixed numbers, and the same text makes the same vocabulary.
    inside = [f"##{c}" for c in alphabet if continues(c, config)]
    least = len(SPECIAL) + len(alphabet) + len(inside)
    _must_fit(least, config, f"an alphabet of {len(alphabet)} characters, each at the start of a word and inside")
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learning = _wordpiece_tokenizer({UNK: 0}, config)
    learning.train_from_iterator(lines(texts), trainer)
    ids = learning.get_vocab(with_added_tokens=False)
    pieces = sorted((p for p in ids if p not in SPECIAL), key=lambda p: (len(p.removeprefix("##")) > 1, ids[p]))
    return _wordpiece_tokenizer({p: i for i, p in enumerate([*SPECIAL, *pieces])}, config)


def _wordpiece_tokenizer(vocab: dict[str, int], config: TokenizerConfig) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = normalizer(config)
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.BertPreTokenizer()]
    if not config.splits_chinese():
        steps.append(pre_tokenizers.FixedLength(KEPT_CHINESE))
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _must_fit(least: int, config: TokenizerConfig, what: str) -> None:
    if least > config.vocab_size:
        raise UsageError(
            f"vocab_size {config.vocab_size} is too small for {what} and {len(SPECIAL)} special tokens: {least}",
            fix=f"--vocab-size {max(2 * least, 1000)}" + (" or a smaller alphabet" if config.alphabet else ""),
        )


def _bpe(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    letters = pre_tokenizers.ByteLevel.alphabet()
    _must_fit(len(SPECIAL) + len(letters), config, f"{len(letters)} bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer(config)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if config.splits_chinese():
        steps.append(pre_tokenizers.Split(Regex(HAN_CLASS), "isolated"))
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(KEPT_BYTES)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(letters),
        limit_alphabet=len(letters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(texts), trainer)
    return tokenizer


def _word(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({UNK: 0}, unk_token=UNK))
    tokenizer.normalizer = normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(texts), trainer)
    return tokenizer


def _char(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    room = config.vocab_size - len(SPECIAL) - 1
    alphabet = _alphabet(count_characters(texts), config, room)
    _must_fit(len(SPECIAL) + 1 + len(alphabet), config, f"an alphabet of {len(alphabet)} characters")
    vocab = {piece: i for i, piece in enumerate([*SPECIAL, SPACE, *alphabet])}
    # Byte-pair encoding without a single merge is the fastest way of the library to cut a text into characters.
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=UNK))
    tokenizer.normalizer = normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    return tokenizer


_TRAIN = {"wordpiece": _wordpiece, "bpe": _bpe, "word": _word, "char": _char}


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    """Special tokens where they belong, and [CLS] A [SEP] B [SEP] around one text or two."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    found = [tokenizer.token_to_id(token) for token in SPECIAL]
    assert found == list(range(len(SPECIAL))), found
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS}:0 $A:0 {SEP}:0",
        pair=f"{CLS}:0 $A:0 {SEP}:0 $B:1 {SEP}:1",
        special_tokens=[(token, SPECIAL.index(token)) for token in (CLS, SEP)],
    )
    return tokenizer


def _files(tokenizer: Tokenizer, config: TokenizerConfig) -> dict[str, bytes]:
    names = {"pad_token": PAD, "unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
    for_transformers = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    options = config.model_dump(mode="json")
    ours = {"format": 1, "encoderkit": encoderkit.__version__, "kind": config.kind, "options": options}
    return {
        "tokenizer.json": tokenizer.to_str(pretty=False).encode(),
        "tokenizer_config.json": _json(for_transformers),
        "special_tokens_map.json": _json(names),
        "encoderkit.json": _json(ours),
    }


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _unigram(texts: Kept, config: TokenizerConfig) -> tuple[Tokenizer, bytes, dict[str, int]]:
    raw = count_characters(texts)
    fixed = len(SPECIAL) + len(SPELLING) + 1 + (256 if config.byte_fallback else 0)
    alphabet = set(_alphabet(raw, config, (config.vocab_size - fixed) // 2))
    what = f"an alphabet of {len(alphabet)} characters" + (" and 256 bytes" if config.byte_fallback else "")
    _must_fit(fixed + len(alphabet), config, what)
    rule = characters_normalizer(config).normalize_str
    rare = {c for c in raw if any(n not in alphabet and not n.isspace() for n in rule(c))}
    return train_unigram(texts, config, rare)
