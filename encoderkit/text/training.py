"""Training a tokenizer: a stream of texts to the files of a saved one, in bounded memory, the same files every time."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import encoderkit
from encoderkit.errors import DataError, UsageError
from encoderkit.text.alphabet import HAN_CLASS, count_characters, normalized_counts
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.counting import LONGEST_WORD, count_by_gigatoken, count_byte_words, count_words
from encoderkit.text.merging import Laid, learn
from encoderkit.text.normalization import SPACE, characters_normalizer, normalizer, words_decoder
from encoderkit.text.panics import panics_explained
from encoderkit.text.sampling import Kept, Sample, draw
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK, files_of
from encoderkit.text.unigram import SPELLING, train_unigram

KEPT_CHINESE, KEPT_BYTES = 64, 96
"""The longest run that wordpiece (characters) and bpe (bytes) see as one word. Text without spaces would otherwise make
words of any length, and time and memory with them; no ordinary word is as long."""


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


def _characters(raw: dict[str, int], config: TokenizerConfig) -> dict[str, int]:
    return normalized_counts(raw, characters_normalizer(config).normalize_str)


def _alphabet(counts: dict[str, int], config: TokenizerConfig, room: int) -> list[str]:
    """The characters that enter the vocabulary: the commonest, `config.alphabet` of them or what fits into `room`.

    `counts` has the commonest first. Characters rarer than `min_frequency` stay out. A wordpiece character counts twice
    if it can continue a word.
    """
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
    """Whether a character can stand inside a word of BERT's pre-tokenizer and so needs a piece with ##.

    Of Chinese ones 〇 and the youngest can: BERT does not know that they are such.
    """
    text = _APART.normalize_str(f"a{character}") if config.splits_chinese() else f"a{character}"
    return pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)[0][0] != "a"


_APART = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False)


def _wordpiece(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    words = count_words(texts, _wordpiece_tokenizer({UNK: 0}, config), config.splits_chinese(), config.lowercase)
    laid = Laid(words)
    alphabet = sorted(_alphabet(laid.letters(), config, config.vocab_size // 2))
    inside = [c for c in alphabet if continues(c, config)]
    least = len(SPECIAL) + len(alphabet) + len(inside)
    _must_fit(least, config, f"{len(alphabet)} characters, {len(inside)} of them a second time inside words")
    known = [*SPECIAL, *(f"##{c}" for c in inside), *alphabet]
    symbols = laid.symbols({c: i for i, c in enumerate(known)}, {c: i for i, c in enumerate(inside, len(SPECIAL))})
    learnt = learn(symbols, known, config.vocab_size, config.min_frequency, "##")
    pieces = sorted(learnt.pieces[len(SPECIAL) :], key=lambda piece: len(piece.removeprefix("##")) > 1)
    return _wordpiece_tokenizer({p: i for i, p in enumerate([*SPECIAL, *pieces])}, config)


def _wordpiece_tokenizer(vocab: dict[str, int], config: TokenizerConfig) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=LONGEST_WORD))
    tokenizer.normalizer = normalizer(config)
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.BertPreTokenizer()]
    if not config.splits_chinese():
        steps.append(pre_tokenizers.FixedLength(KEPT_CHINESE))
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    tokenizer.decoder = words_decoder("##")
    return tokenizer


def _must_fit(least: int, config: TokenizerConfig, what: str) -> None:
    if least > config.vocab_size:
        raise UsageError(
            f"vocab_size {config.vocab_size} is too small for {what} and {len(SPECIAL)} special tokens, {least} pieces",
            fix=f"--vocab-size {max(2 * least, 1000)}, {least} at least" + (", or a smaller alphabet" if config.alphabet else ""),
        )


def _bpe(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    _must_fit(len(SPECIAL) + len(letters), config, f"{len(letters)} bytes")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer(config)
    steps: list[pre_tokenizers.PreTokenizer] = []
    if config.splits_chinese():
        steps.append(pre_tokenizers.Split(Regex(HAN_CLASS), "isolated"))
    steps += [pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.FixedLength(KEPT_BYTES)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    words = None
    if not (config.splits_chinese() or config.lowercase or config.strip_accents):
        words = count_by_gigatoken(texts, tokenizer, config.nfkc, KEPT_BYTES)
    if words is None:
        words = count_byte_words(texts, tokenizer, config.splits_chinese(), config.lowercase)
    known = [*SPECIAL, *letters]
    numbers = {c: i for i, c in enumerate(known)}
    learnt = learn(Laid(words).symbols(numbers, numbers), known, config.vocab_size, config.min_frequency)
    tokenizer.model = models.BPE({p: i for i, p in enumerate(learnt.pieces)}, learnt.merge_names())
    return tokenizer


def _word(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({UNK: 0}, unk_token=UNK))
    tokenizer.normalizer = normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = count_words(texts, tokenizer, config.splits_chinese(), config.lowercase)
    common = sorted((-n, word) for word, n in words.items() if n >= config.min_frequency and word not in SPECIAL)
    vocab = [*SPECIAL, *(word for _, word in common)][: config.vocab_size]
    tokenizer.model = models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token=UNK)
    tokenizer.decoder = words_decoder("\0")  # no word is a piece of another
    return tokenizer


def _char(texts: Kept, config: TokenizerConfig) -> Tokenizer:
    room = config.vocab_size - len(SPECIAL) - 1
    alphabet = _alphabet(_characters(count_characters(texts), config), config, room)
    _must_fit(len(SPECIAL) + 1 + len(alphabet), config, f"{len(alphabet)} characters, the space")
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
    options = config.model_dump(mode="json")
    ours = {"format": 1, "encoderkit": encoderkit.__version__, "kind": config.kind, "options": options}
    files = files_of(tokenizer, names, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    return {**files, "encoderkit.json": json.dumps(ours, ensure_ascii=False, indent=1).encode()}


def _unigram(texts: Kept, config: TokenizerConfig) -> tuple[Tokenizer, bytes, dict[str, int]]:
    raw = count_characters(texts)
    fixed = len(SPECIAL) + len(SPELLING) + 1 + (256 if config.byte_fallback else 0)
    alphabet = set(_alphabet(_characters(raw, config), config, (config.vocab_size - fixed) // 2))
    what = f"{len(alphabet)} characters, the space, the {len(SPELLING)} letters of the special tokens"
    _must_fit(fixed + len(alphabet), config, what + (", 256 bytes" if config.byte_fallback else ""))
    rule = characters_normalizer(config).normalize_str
    rare = {c for c in raw if any(n not in alphabet and not n.isspace() for n in rule(c))}
    return train_unigram(texts, config, rare)
