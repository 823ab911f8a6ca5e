"""What happens to a text before it is cut into pieces, the same for training and use, and how words become a text again."""

from tokenizers import Regex, decoders, normalizers

from encoderkit.text.alphabet import HAN_CLASS
from encoderkit.text.config import TokenizerConfig

SPACE = "▁"
"""The visible space of sentencepiece (U+2581)."""


def characters_normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    """What happens to the characters, not yet to runs of spaces.

    Accents go by decomposing, removing the marks and composing again, so that Korean syllables stay whole.
    """
    steps: list[normalizers.Normalizer] = []
    if config.kind in ("unigram", "char"):
        steps.append(normalizers.Nmt())  # control characters out; tabs, line ends and U+2581 become spaces
    if config.nfkc:
        steps.append(normalizers.NFKC())
    if config.kind in ("wordpiece", "word"):
        split, strip, lower = config.splits_chinese(), config.strip_accents, config.lowercase
        steps.append(normalizers.BertNormalizer(True, split, strip, lower))
        return normalizers.Sequence([*steps, normalizers.NFC()] if strip else steps)
    if config.strip_accents:
        steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
    if config.lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    """The normaliser of a tokenizer, as the tokenizers library writes it into tokenizer.json."""
    characters = characters_normalizer(config)
    if config.kind != "unigram":
        return characters
    return normalizers.Sequence([characters, normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])


def words_decoder(prefix: str) -> decoders.Sequence:
    """Words, and pieces that begin with `prefix` inside of them, to text: a space between two, but not between Chinese ones.

    Which spaces a text had is not in its words. Chinese characters and their punctuation stand together, so that what a
    model writes reads as Chinese; transformers' own decoder of BERT puts a space between any two characters.
    """
    wide = f"[{HAN_CLASS[1:-1]}\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]"
    together = decoders.Replace(Regex(f"(?<={wide}) (?={wide})"), "")
    return decoders.Sequence([decoders.WordPiece(prefix), decoders.Fuse(), together])
