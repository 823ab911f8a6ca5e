"""The tokenizers of published checkpoints, in whatever files they come, as the files that `open_tokenizer` reads."""

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from encoderkit.console import warn
from encoderkit.errors import DataError, refuse_pointer, shown
from encoderkit.text.alphabet import is_han
from encoderkit.text.normalization import words_decoder
from encoderkit.text.panics import panics_explained
from encoderkit.text.pieces import pieces_files
from encoderkit.text.special import CLS, MASK, PAD, SEP, SPECIAL, UNK, files_of

KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")
PIECES = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
"""What sentencepiece's file is called in the wild."""
_PLAIN = ("None", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_BERT_FLAGS: dict[str, tuple[str, bool | None]] = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
"""What tokenizer_config.json calls them, tokenizer.json's normalizer, and what is taken where nothing is said."""
_LAYOUTS = ("TemplateProcessing", "RobertaProcessing", "BertProcessing")
_CLASSES = {
    "vocab.txt": ("Bert", "Electra", "DistilBert", "ConvBert", "MobileBert", "Lxmert", "LayoutLM", "Retriever"),
    "vocab.json": ("Roberta", "GPT2", "Bart", "Longformer", "Deberta", "LED", "Blenderbot"),
    "model": ("T5", "MT5", "Albert", "XLNet", "XLMRoberta", "Camembert", "DebertaV2"),
}
"""The classes of transformers that read such a file as it is read here, by their names without Tokenizer."""
_SENTINEL = re.compile(r"▁?<extra_id_\d+>")
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_ROBERTA = {"unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>"}


def foreign_files(folder: Path) -> dict[str, bytes]:
    """The files of our form of the tokenizer in a directory of transformers.

    tokenizer.json as it is; vocab.txt (WordPiece), vocab.json with merges.txt (byte-level BPE) and models of sentencepiece are
    converted. Raises `DataError` if there is none of them.
    """
    if (folder / "tokenizer.json").is_file():
        found = {name: (folder / name).read_bytes() for name in KEPT if (folder / name).is_file()}
        refuse_pointer(found["tokenizer.json"], folder / "tokenizer.json")
        return _marked(_as_it_stands(_with_layout(found, folder), folder), folder)
    if (folder / "vocab.txt").is_file():
        described = _described(folder, "vocab.txt")
        found = wordpiece_files(
            folder / "vocab.txt",
            lowercase=_flag(described, "do_lower_case", True, folder),
            strip_accents=_flag(described, "strip_accents", None, folder),
            chinese=_flag(described, "tokenize_chinese_chars", True, folder),
            said=described,
        )
        return _marked(_with_added(found, folder), folder)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _marked(_with_added(_byte_bpe(folder), folder), folder)
    for path in (folder / name for name in PIECES):
        if path.is_file():
            _described(folder, "model")
            data = path.read_bytes()
            refuse_pointer(data[:100], path)
            found = pieces_files(data, str(_json(folder / "config.json").get("model_type")), _said(folder), path)
            return _marked(_with_added(found, folder), folder)
    wanted = "tokenizer.json, vocab.txt, vocab.json with merges.txt, or a model of sentencepiece"
    raise DataError(f"holds no tokenizer: none of {wanted}", where=folder, fix="put the tokenizer's files beside the weights")


def _as_it_stands(found: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """The files of a tokenizer.json, by a class that reads it as it is where that of its family would read otherwise.

    Of BERT's and RoBERTa's, transformers takes the vocabulary alone from it, and all else from what tokenizer_config.json says
    or leaves open.
    """
    tokenizer, said = _object(found["tokenizer.json"], folder / "tokenizer.json"), _said(folder)
    own = _object(found.get("tokenizer_config.json", b"{}"), folder / "tokenizer_config.json")
    model, *rules = (tokenizer.get(name) or {} for name in ("model", "normalizer", "pre_tokenizer"))
    laid_out = any(kind in json.dumps(tokenizer.get("post_processor")) for kind in _LAYOUTS)
    if own.get("tokenizer_class") in _PLAIN or not laid_out:  # what stands around a text is the class's to say
        return found
    if model.get("type") == "WordPiece":
        usual, flagged, flags = _BERT, 0, _BERT_FLAGS
        theirs = [{"type": "BertNormalizer", "clean_text": True}, {"type": "BertPreTokenizer"}]
    elif model.get("type") == "BPE" and '"ByteLevel"' in json.dumps(rules):
        usual, flagged, flags = _ROBERTA, 1, {"add_prefix_space": ("add_prefix_space", False)}
        theirs = [{}, rules[1] | {"type": "ByteLevel"}]
    else:
        return found
    theirs[flagged] |= {key: said.get(name, default) for name, (key, default) in flags.items()}
    if rules == theirs:
        return found
    there = rules[flagged]
    if told := [name for name, (key, _) in flags.items() if name in said and there.get(key, said[name]) != said[name]]:
        what = " and ".join(f"{name}: {json.dumps(said[name])}" for name in told)
        warn(f"{folder}: tokenizer_config.json says {what}, and tokenizer.json otherwise, which is what is read")
    pieces = {token["content"] for token in tokenizer.get("added_tokens") or []} | set(model.get("vocab") or ())
    names = {role: name for role, name in usual.items() if role not in said | own and name in pieces}
    described = own | names | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return {**found, "tokenizer_config.json": json.dumps(described, indent=1, ensure_ascii=False).encode()}


def _described(folder: Path, form: str) -> dict[str, Any]:
    """What tokenizer_config.json says; raises `DataError` where a class is named that reads such a file in another way."""
    described = _json(folder / "tokenizer_config.json")
    named = str(described.get("tokenizer_class") or _json(folder / "config.json").get("tokenizer_class"))
    if named not in _PLAIN and named.removesuffix("Fast").removesuffix("Tokenizer") not in _CLASSES[form]:
        message = f"the tokenizer is a {shown(named)}, which may cut texts in another way than what is read here"
        fix = "save it as a tokenizer.json where transformers can; or take tokenizer_class out, if it is one of " + ", ".join(
            f"{name}Tokenizer" for name in _CLASSES[form][:4]
        )
        raise DataError(message, where=folder / "tokenizer_config.json", fix=fix)
    return described


def _said(folder: Path) -> dict[str, Any]:
    """What the files beside a vocabulary say of its tokens."""
    return _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")


def _flag(described: dict[str, Any], key: str, usual: bool | None, folder: Path) -> Any:
    value = described.get(key, usual)
    if not isinstance(value, bool | None):
        message = f"{key} should be true or false, found {shown(str(value), 40)}"
        raise DataError(message, where=folder / "tokenizer_config.json", fix="correct it there")
    return value


def _with_added(found: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """With the tokens that were added to a vocabulary later, as they stand beside it; each must get the id that it had."""
    described = _said(folder)
    added: dict[int, AddedToken] = {}
    try:
        for name, id in _json(folder / "added_tokens.json").items():
            added[int(id)] = AddedToken(str(name))
        for id, token in (described.get("added_tokens_decoder") or {}).items():
            flags = {flag: bool(token.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
            added[int(id)] = AddedToken(str(token["content"]), **flags)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        message = f"the tokens that were added cannot be understood ({type(error).__name__}: {error})"
        raise DataError(message, where=folder / "tokenizer_config.json", fix="load it again") from None
    with panics_explained("reading the tokenizer", folder):
        tokenizer = Tokenizer.from_str(found["tokenizer.json"].decode())
    new = [added[id] for id in sorted(added) if tokenizer.token_to_id(added[id].content) is None]
    marks = [name for name in _named_marks(described) if tokenizer.token_to_id(name) is not None]  # such as BERT's [unused1]
    tokenizer.add_tokens(new)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in marks])
    for id, token in added.items():
        if tokenizer.token_to_id(token.content) != id:
            message = f"{shown(token.content, 40)} was added with the id {id}, and here it would be another"
            raise DataError(message, where=folder, fix="save the tokenizer as a tokenizer.json, and import it with that")
    return {**found, "tokenizer.json": tokenizer.to_str().encode()} if new or marks else found


def _named_marks(said: dict[str, Any]) -> list[str]:
    """The tokens that a tokenizer_config.json names as special without saying what for; not T5's sentinels."""
    named = [said.get(key) for key in ("additional_special_tokens", "extra_special_tokens")]
    listed = [token for tokens in named if isinstance(tokens, list) for token in tokens]
    names = [str(token.get("content") if isinstance(token, dict) else token) for token in listed]
    return [name for name in names if not _SENTINEL.match(name)]


def _marked(found: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """Marks that the authors added for texts, such as [E1] around an entity, are looked for in texts, as transformers does.

    Not those that say where a text begins and ends, what is hidden or unknown, which no text should turn into.
    """
    tokenizer = _object(found["tokenizer.json"], folder / "tokenizer.json")
    parts = [_object(found.get(name, b"{}"), folder / name) for name in ("special_tokens_map.json", "tokenizer_config.json")]
    said = _said(folder) | parts[0] | parts[1]
    roles = {str(v["content"] if isinstance(v, dict) else v) for name, v in said.items() if name.endswith("_token")}
    model = tokenizer.get("model")
    vocabulary = model.get("vocab", ()) if isinstance(model, dict) else ()
    size, named = len(vocabulary), _named_marks(said)
    marks = [
        token
        for token in tokenizer.get("added_tokens") or []
        if token["special"] and token["content"] not in roles and not _SENTINEL.match(token["content"])
        if token["id"] >= size or token["content"] in named
    ]
    if not marks:
        return found
    for token in marks:
        token["special"] = False
    return {**found, "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False).encode()}


def wordpiece_files(
    vocabulary: Path, lowercase: bool, strip_accents: bool | None = None, chinese: bool = True, said: dict[str, Any] | None = None
) -> dict[str, bytes]:
    """BERT's tokenizer from a vocab.txt, one piece a line; without `strip_accents` they go where case does, as in BERT."""
    pieces = _text(vocabulary).rstrip("\n").split("\n")
    ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces)}
    names = _names(_BERT, said)
    missing = [token for token in names.values() if token not in ids]
    if missing or len(ids) != len(pieces):
        reason = f"lacks {', '.join(missing)}" if missing else "has a piece twice"
        fix = "the vocab.txt that was published with the weights"
        raise DataError(f"this vocabulary {reason}; is it that of a BERT?", where=vocabulary, fix=fix)
    with panics_explained("reading the vocabulary", vocabulary):
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token=names["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(True, chinese, strip_accents, lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = words_decoder("##")
    cls, sep = names["cls_token"], names["sep_token"]
    tokenizer.post_processor = processors.BertProcessing((sep, ids[sep]), (cls, ids[cls]))
    return _files(tokenizer, names)


def _byte_bpe(folder: Path) -> dict[str, bytes]:
    described = _described(folder, "vocab.json")
    with panics_explained("reading vocab.json and merges.txt", folder):
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        if any(piece.endswith("</w>") for piece in vocab):
            message = "its pieces end in </w>: this is BPE on characters, and only BPE on bytes is read here"
            raise DataError(
                message, where=folder / "vocab.json", fix="save the tokenizer as a tokenizer.json, where transformers can"
            )
        tokenizer = Tokenizer(models.BPE(vocab, merges))
    said = _said(folder)
    gpt = "<s>" not in vocab
    end = "<|endoftext|>"
    names = _names({"unk_token": end, "bos_token": end, "eos_token": end} if gpt else _ROBERTA, said)
    space = bool(described.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    if not gpt:
        if missing := [names[role] for role in ("cls_token", "sep_token") if names[role] not in vocab]:
            raise DataError(
                f"lacks {' and '.join(missing)}, with which its texts begin and end",
                where=folder / "vocab.json",
                fix="the vocab.json that was published with the weights",
            )
        cls, sep = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.RobertaProcessing((sep, vocab[sep]), (cls, vocab[cls]), True, space)
    return _with_layout(_files(tokenizer, names), folder)


def _with_layout(found: dict[str, bytes], where: Path) -> dict[str, bytes]:
    """The files, with the layout of texts and the token of padding written out where one token stands for all, as in GPT-2.

    Its own tokenizer puts nothing around a text. Here it stands before, so that an empty text is one too; what goes back
    to transformers is then read there as it is here.
    """
    parts = [_object(found.get(name, b"{}"), where / name) for name in ("special_tokens_map.json", "tokenizer_config.json")]
    said = parts[0] | parts[1]
    names = _names(dict.fromkeys(("bos_token", "eos_token", "pad_token"), ""), said)
    end = names["eos_token"]
    if not end or names["bos_token"] != end or names["pad_token"] not in ("", end, "None"):
        return found
    with panics_explained("reading tokenizer.json", where):
        tokenizer = Tokenizer.from_str(found["tokenizer.json"].decode())
    if tokenizer.num_special_tokens_to_add(False):
        return found
    ids = [(end, tokenizer.token_to_id(end))]
    layout = processors.TemplateProcessing(f"{end} $A", f"{end} $A {end} $B:0", ids)
    before = tokenizer.post_processor
    tokenizer.post_processor = layout if before is None else processors.Sequence([before, layout])
    described = {**said, "pad_token": end, "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
    return {
        **found,
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(described, indent=1).encode(),
    }


def _files(tokenizer: Tokenizer, names: dict[str, str]) -> dict[str, bytes]:
    special = [AddedToken(token, lstrip=role == "mask_token" and token == "<mask>") for role, token in names.items()]
    tokenizer.add_special_tokens(special)
    return files_of(tokenizer, names)


def _names(usual: dict[str, str], said: dict[str, Any] | None) -> dict[str, str]:
    """The special tokens by role: as `said`, a text or a mapping with its content, or the `usual` ones."""
    found = {role: (said or {}).get(role, token) for role, token in usual.items()}
    return {role: str(token["content"] if isinstance(token, dict) else token) for role, token in found.items()}


def _json(path: Path) -> dict[str, Any]:
    return _object(_text(path), path) if path.is_file() else {}


def _object(data: str | bytes, where: Path) -> dict[str, Any]:
    refuse_pointer(data.encode() if isinstance(data, str) else data, where)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})", where=where, fix="load it again") from None
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError("not text in UTF-8", where=path, fix="load it again") from None


def word_files(words: list[str]) -> tuple[dict[str, bytes], list[str]]:
    """A tokenizer of whole words for a file of word vectors, and its pieces after the five special ones.

    Text is split at spaces and punctuation; it is folded to lower case where no word of the file has a capital, and a run of
    Chinese characters is one word where any word of the file has several: such text has to come with spaces between words.
    """
    kept = [word for word in words if word not in SPECIAL]
    han = any(sum(is_han(ord(c)) for c in word) > 1 for word in kept)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *kept])}, unk_token=UNK))
    lower = all(word == word.lower() for word in kept)
    tokenizer.normalizer = normalizers.BertNormalizer(True, not han, False, lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SEP, SPECIAL.index(SEP)), (CLS, SPECIAL.index(CLS)))
    names = {"unk_token": UNK, "sep_token": SEP, "pad_token": PAD, "cls_token": CLS, "mask_token": MASK}
    return _files(tokenizer, names) | {"encoderkit.json": b'{"kind": "word"}'}, kept
