"""What happens to a text before it is cut into pieces, the same for training and use."""

from tokenizers import Regex, normalizers

from encoderkit.text.alphabet import HAN_CLASS
from encoderkit.text.config import TokenizerConfig

SPACE = "▁"
"""The visible space of sentencepiece (U+2581)."""


def normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    """The normaliser of a tokenizer of this kind, as the tokenizers library writes it into tokenizer.json.

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
        if config.strip_accents:
            steps.append(normalizers.NFC())
    else:
        if config.strip_accents:
            steps += [normalizers.NFD(), normalizers.StripAccents(), normalizers.NFC()]
        if config.lowercase:
            steps.append(normalizers.Lowercase())
    if config.kind == "unigram":
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


__all__ = ["HAN_CLASS", "SPACE", "normalizer"]
