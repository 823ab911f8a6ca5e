"""`encoderkit import`: a published checkpoint as a model directory, from which everything here goes on."""

import difflib
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from encoderkit import files
from encoderkit.console import say, warn
from encoderkit.errors import DataError, PointerError, UsageError, need, placed
from encoderkit.inference import build_learner, vocabulary_of
from encoderkit.interop import uer
from encoderkit.interop.families import Recognised, recognise, rules
from encoderkit.interop.hf import THRESHOLDS, from_hf
from encoderkit.interop.layout import Head
from encoderkit.interop.sentence_transformers import longest_text, read_modules
from encoderkit.interop.t5 import EncoderDecoderConfig
from encoderkit.interop.vectors import is_vectors
from encoderkit.interop.weights import checkpoint_tensors
from encoderkit.models.config import AlbertConfig, GptConfig, T5Config, longest
from encoderkit.models.pooling import Pooling
from encoderkit.objectives.config import CausalConfig, MaskedConfig, PermutedConfig, ReplacedConfig, SpansConfig
from encoderkit.stages.import_vectors import import_vectors
from encoderkit.tasks.config import ClassifyConfig, GenerateConfig, RegressConfig, SimilarityConfig, SpanConfig, TagConfig
from encoderkit.tasks.schemes import Scheme, written
from encoderkit.text.foreign import foreign_files, wordpiece_files
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.training.checkpoint import Description, config_of, load_weights, write_model

WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]
"""The files of a repository on the hub that are fetched; pickles too where they are trusted."""
LENGTH = 512
"""Tokens of a text that are read if nobody says how many."""
_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_ENDINGS = (".txt", ".vec", ".bin", ".json", ".safetensors", ".model", ".gz", ".xz", ".zip", ".pt", ".pth", ".ckpt")
"""Of names that are files, and not repositories on the hub."""
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_BUFFERS = ("position_ids", "token_type_ids", "inv_freq", ".attn.bias", ".attn.masked_bias")
"""Ends of the names of what some versions save and all can compute."""


class Source(NamedTuple):
    """What was found, under the names of transformers."""

    described: Mapping[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: dict[str, bytes]
    where: Path
    config: Path
    """Where `described` was found."""
    pooling: Pooling | None = None
    """How it makes one vector of a text, if it was published for that."""
    length: int | None = None
    """The most tokens of a text that it reads, where that is told."""


def run(
    source: str,
    out: Path,
    trust_pickle: bool = False,
    config: Path | None = None,
    vocabulary: Path | None = None,
    overwrite: bool = False,
    length: int | None = None,
    writes: bool = False,
) -> dict[str, Any]:
    """Write the checkpoint at `source` to `out`; the JSON of the command.

    `length`: the tokens of a text that predict and its like will read; as many as the model can, but 512 at the most, if not
    given, as memory grows with their square. `writes`: a T5 with its decoder is a model of the task `generate`, which predicts;
    otherwise of the objective `spans`, which is trained on.

    `source` is a directory, a file of UER-py or of word vectors, or a name on the hub. `config` and `vocabulary` are
    UER-py's files, which lie elsewhere. Raises `DataError` for what cannot be held here; no tensor is made up, and each
    that is not used is named.
    """
    files.refuse_existing(out, overwrite)
    if Path(source).is_file() and is_vectors(Path(source)):
        _only(length, {"--config": config, "--vocabulary": vocabulary, "--writes": writes})
        return import_vectors(Path(source), out, length or LENGTH, overwrite)
    found = _found(source, trust_pickle, config, vocabulary)
    recognised = _recognised(found)
    if writes and not isinstance(recognised.config, EncoderDecoderConfig):
        raise UsageError("this checkpoint has no decoder, and so writes nothing", where="--writes", fix="leave it out")
    tokenizer = Tokenizer(found.tokenizer, found.where)
    tensors, tied = _plain_names(found.tensors), bool(found.described.get("tie_word_embeddings", True))
    recognised, ours, unused = _taken(recognised, tensors, tokenizer, found.where, tied)
    thresholds = _thresholds(found.where, recognised.head)
    with placed(found.where):
        described = _config(recognised, tokenizer, ours, bool(thresholds), writes, found.pooling)
        described |= {"length": _length(recognised, length, found.length)}
    labels = list(recognised.head.labels) or None
    learner = build_learner(described, labels, found.where)
    assert isinstance(learner, nn.Module)
    ours = (
        {name: learner.state_dict()[name] for name, _ in learner.named_buffers() if name in learner.state_dict()}
        | ours
        | thresholds
    )
    with torch.no_grad():
        load_weights(learner, ours, found.where)
    with files.staged(out, {"from": str(source)}, overwrite) as folder:
        write_model(folder, ours, Description(described, labels, tokenizer.save_files()))
    if isinstance(recognised.config, GptConfig) and recognised.head.labels:
        warn("texts begin with the end token here, and GPT-2's tokenizer puts nothing: the head was published for other input")
    if unused:
        warn(f"{len(unused)} tensors have no place here and were left out: {', '.join(unused[:8])}{' ...' * (len(unused) > 8)}")
    return {
        "family": recognised.config.kind,
        "head": recognised.head.kind,
        "tensors": len(ours),
        "parameters": sum(t.numel() for t in ours.values()),
        "unused": unused,
        "length": described["length"],
        "out": str(out),
    }


def _only(length: int | None, others: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what says nothing to word vectors."""
    if flag := next((flag for flag, given in others.items() if given), None):
        raise UsageError("is not for word vectors, which are a file by themselves", where=flag, fix="leave it out")
    if length is not None and length < 3:
        raise UsageError(f"the model reads 3 or more tokens, found {length}", where="--length", fix=f"--length {LENGTH}")


def _found(source: str, trust_pickle: bool, config: Path | None, vocabulary: Path | None) -> Source:
    path = Path(source)
    if not path.is_file() and (config or vocabulary):
        flag = "--vocabulary" if config is None else "--config"
        raise UsageError("is for a file of UER-py; a directory has its own", where=flag, fix="leave it out")
    if path.is_dir():
        return _directory(path, trust_pickle)
    if path.is_file():
        return _uer(path, trust_pickle, config, vocabulary)
    if _HUB.fullmatch(source) and path.suffix not in _ENDINGS and not (path.parent.name and path.parent.is_dir()):
        return _directory(_fetched(source, trust_pickle), trust_pickle)
    names = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = ", ".join(difflib.get_close_matches(path.name, names, 5, 0.4))
    message = "there is no such file or directory" + (f"; beside it there are {near}" if near else "")
    raise UsageError(message, where=source, fix="look at the path; a name on the hub is OWNER/NAME")


def _directory(folder: Path, trust_pickle: bool) -> Source:
    pooling = length = None
    if (listed := read_modules(folder)) is not None:
        folder, pooling, length = listed
    where, fix = folder / "config.json", "put the config.json that was published with the weights beside them"
    try:
        described = files.read_json(where)
    except PointerError:
        raise
    except DataError as error:
        raise DataError(error.message, where=where, fix=fix) from None
    if not isinstance(described, dict):
        raise DataError("holds no JSON object", where=where, fix=fix)
    if "encoder" in described:
        fix = "use it as it is: every command takes it"
        raise UsageError("this is a model of encoderkit already", where=folder, fix=fix)
    tensors, length = checkpoint_tensors(folder, trust_pickle), length or longest_text(folder)
    return Source(described, tensors, foreign_files(folder), folder, where, pooling, length)


def _uer(path: Path, trust_pickle: bool, config: Path | None, vocabulary: Path | None) -> Source:
    tensors = checkpoint_tensors(path, trust_pickle)
    if not uer.is_uer(tensors):
        names = ", ".join(list(tensors)[:3])
        message = f"these are not the tensors of a BERT of UER-py (they are named {names}, ...)"
        raise DataError(message, where=path, fix="give the directory of the checkpoint, with its config.json")
    if vocabulary is None:
        message = "a checkpoint of UER-py does not hold its vocabulary"
        raise UsageError(message, where=path, fix="--vocabulary google_zh_vocab.txt (in UER-py's models folder)")
    settings = files.read_json(config) if config is not None else {}
    tokenizer = wordpiece_files(vocabulary, lowercase=True)
    renamed = uer.renamed(tensors)
    with placed(config):
        described = uer.described(renamed, settings, Tokenizer(tokenizer, vocabulary).pad)
    if config is None:
        say(f"no --config: taken for a BERT with {described['num_attention_heads']} heads (dim / 64) and GELU")
    return Source(described, renamed, tokenizer, path, config or path)


def _fetched(name: str, trust_pickle: bool) -> Path:
    """The directory of a repository on the Hugging Face hub, downloaded once."""
    need("huggingface_hub", "there is no such file or directory, and names on the hub need", "hub", name)
    hub = importlib.import_module("huggingface_hub")
    say(f"fetching {name} from the Hugging Face hub")
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=WANTED + ["*.bin"] * trust_pickle))
    except Exception as error:  # its own errors, those of the network and of the file system
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"there is no such file or directory, and it cannot be fetched from the hub: {reason}"
        raise UsageError(message, where=name, fix="download it by hand, and give its directory") from None
    if not trust_pickle and not any([*folder.glob("*.safetensors"), *folder.glob("0_*/*.safetensors")]):
        message = "has no .safetensors there, and pickles (.bin), if it has these, can run anything when they are read"
        raise UsageError(
            message, where=name, fix="--trust-pickle, if you know where it comes from; they are read in a closed process"
        )
    return folder


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the names that old versions used, and without what is computed anyway; half precision, but no less, as float32."""
    result = {}
    for name, tensor in tensors.items():
        for old, new in _OLD.items():
            name = re.sub(rf"{re.escape(old)}$", new, name)
        if not name.endswith(_BUFFERS):
            result[name] = tensor.float() if tensor.is_floating_point() and tensor.itemsize > 1 else tensor
    return result


def _recognised(found: Source) -> Recognised:
    """What config.json describes: of what makes vectors the encoder alone, of a tagger tags as they are written here."""
    with placed(found.config):
        recognised = recognise(found.described)
    if found.pooling is not None:
        return recognised._replace(head=Head("none"))
    if recognised.head.kind == "tag":
        return recognised._replace(head=recognised.head._replace(labels=_tags(recognised.head.labels)[0]))
    return recognised


def _taken(
    found: Recognised, tensors: dict[str, Tensor], tokenizer: Tokenizer, where: Path, tied: bool
) -> tuple[Recognised, dict[str, Tensor], list[str]]:
    """The tensors under our names, and the names of those that have no place; the head is given up where it must be."""
    layout, head = found.layout, found.head
    if isinstance(found.config, EncoderDecoderConfig | T5Config) and head.kind == "none" and "shared.weight" not in tensors:
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}  # behind other heads
    if head.kind == "none" and any(name.startswith(layout.root) for name in tensors):
        tensors = {name.removeprefix(layout.root): tensor for name, tensor in tensors.items()}
    elif head.kind == "causal" and not any(name.startswith(layout.root) for name in tensors):
        tensors = {layout.root + name: tensor for name, tensor in tensors.items()}  # as OpenAI's GPT-2 is published
    with placed(where):
        if head.kind != "none":
            tensors = {layout.renamed.get(name, name): tensor for name, tensor in tensors.items()}
        found, tensors = _once(found, tensors, tied)
        paired = found._replace(head=found.head._replace(kind="pairs"))
        if head.kind == "masked" and "pairs" in layout.classes and _names(paired, tokenizer.pad) <= tensors.keys():
            found = paired  # as BERT was published: what is called a masked model has its pooler too
        ours = from_hf(found.config, found.head.kind, tensors, tokenizer.pad, found.head.own)
    rows, pieces = len(ours["encoder.tokens.weight"]), tokenizer.vocab_size
    if rows < pieces:
        raise DataError(
            f"the tokenizer has {pieces} pieces, the model rows for {rows}; they do not belong together",
            where=where,
            fix="take the tokenizer that was published with the weights",
        )
    return found, ours, sorted(tensors.keys() - _names(found, tokenizer.pad))


def _once(found: Recognised, tensors: dict[str, Tensor], tied: bool) -> tuple[Recognised, dict[str, Tensor]]:
    """Each tensor under one name, and a head with a table of words of its own told apart from one that is tied to them.

    transformers ties no two tensors that are saved with different values, and reads the second of them.
    """
    layout, words = found.layout, rules(found.config, found.head.kind, 0)[0].theirs[0]
    pairs = {**layout.repeated, **({layout.table: words} if layout.table else {})}
    differ = [a for a, b in pairs.items() if a in tensors and b in tensors and not torch.equal(tensors[a], tensors[b])]
    own = layout.table in tensors and words in tensors and (bool(differ) or (layout.ties and not tied))
    if isinstance(found.config, EncoderDecoderConfig) and layout.table:
        own = found.config.decoder.head == "own"  # in T5 this also says whether its input is scaled
        tensors = {layout.table: tensors[words], **tensors} if own else tensors
    for name in differ:
        if not own or (name in layout.repeated and tensors[name].dim() > 1):
            fix = "import the encoder alone: name its class in architectures, such as BertModel"
            raise DataError(f"tensor {name} differs from {pairs[name]}, which it should repeat", fix=fix)
    once = {name: tensor for name, tensor in tensors.items() if name not in pairs or (own and name == layout.table)}
    once |= {b: tensors[a] for a, b in pairs.items() if a in tensors and (a in layout.repeated or b not in tensors)}
    return found._replace(head=found.head._replace(own=own and found.head.kind != "none")), once


def _names(found: Recognised, pad: int) -> set[str]:
    """The tensors of transformers that such a model is made of."""
    return {name for rule in rules(found.config, found.head.kind, pad, found.head.own) for name in rule.theirs}


def _thresholds(where: Path, head: Head) -> dict[str, Tensor]:
    """What the outputs of a head are compared with, under our names, where `export` left a file of it beside the model."""
    path = where / THRESHOLDS
    if not path.is_file() or not (head.kind == "span" or (head.kind == "classify" and head.several)):
        return {}
    try:
        told = files.read_json(path)["thresholds"]
        if head.kind == "span":
            return {"threshold": torch.tensor(float(told["no answer"]))}
        return {"cuts": torch.tensor([told[label] for label in head.labels], dtype=torch.float64).logit().float()}
    except (KeyError, TypeError, ValueError) as error:
        fix = f"delete it, if the model should decide by its own defaults ({type(error).__name__}: {error})"
        raise DataError("holds no thresholds of this model", where=path, fix=fix) from None


def _tags(labels: Sequence[str]) -> tuple[tuple[str, ...], Scheme]:
    """Tags as they are written here, and their scheme; those that are of none stay what they are."""
    try:
        found, scheme = written(labels)
    except ValueError:
        return tuple(labels), "plain"
    if len(set(found)) < len(found) or (scheme != "plain" and "O" not in found):
        return tuple(labels), "plain"
    return tuple(found), scheme


def _config(
    found: Recognised,
    tokenizer: Tokenizer,
    ours: Mapping[str, Tensor],
    thresholds: bool,
    writes: bool,
    pooling: Pooling | None,
) -> dict[str, Any]:
    head, vocabulary = found.head, vocabulary_of(tokenizer)
    if head.kind == "classify" and head.pooling == "cls" and vocabulary.summary == "last":
        fix = "import the encoder alone: name its class in architectures, without ForSequenceClassification"
        raise DataError("this classifier reads the first token of a text, and its tokenizer puts [CLS] last", fix=fix)
    size = len(ours["encoder.tokens.weight"])
    encoder: Any = found.config
    part: dict[str, Any] = {}
    table: Any = "own" if head.own else "tied"
    if isinstance(found.config, EncoderDecoderConfig):
        encoder, task = found.config.encoder, GenerateConfig(decoder=found.config.decoder)
        part = {"task": task} if writes else {"objective": _spans(found.config, tokenizer)}
    elif pooling is not None:
        part = {"task": SimilarityConfig(pooling=pooling)}
    elif head.kind == "causal":
        part = {"objective": CausalConfig(head=table)}
    elif head.kind == "permuted":
        part = {"objective": PermutedConfig(head=table)}
    elif head.kind in ("masked", "pairs"):
        relation = "none" if head.kind == "masked" else "order" if isinstance(found.config, AlbertConfig) else "next"
        part = {"objective": MaskedConfig(pairs=relation, head=table)}
    elif head.kind == "replaced":
        part = {"objective": ReplacedConfig(generator=None)}
    elif head.kind == "classify" and head.numbers:
        names = "score" if len(head.labels) == 1 else list(head.labels)
        values = {"label": names, "pooling": head.pooling, "dropout": head.dropout}
        part = {"task": RegressConfig.model_validate(values)}
    elif head.kind == "classify":
        task = ClassifyConfig.model_validate(
            {"multiple": head.several, "pooling": head.pooling, "dropout": head.dropout, "label": "label"}
            | ({"threshold": 0.5} if head.several and not thresholds else {})
        )
        part = {"task": task}
    elif head.kind == "tag":
        values = {"scheme": _tags(head.labels)[1], "legal": False, "dropout": head.dropout}
        part = {"task": TagConfig.model_validate(values)}
    elif head.kind == "span":
        part = {"task": SpanConfig(unanswerable=thresholds)}
    if size > tokenizer.vocab_size:
        say(f"{size - tokenizer.vocab_size} rows of the embeddings belong to no piece of the tokenizer, and are kept")
    return config_of(encoder, {**vocabulary._asdict(), "size": size}, **part)


def _length(found: Recognised, wanted: int | None, told: int | None) -> int:
    config = found.config.encoder if isinstance(found.config, EncoderDecoderConfig) else found.config
    most = longest(config)
    if wanted is None:
        return min(most or LENGTH, told or LENGTH, LENGTH)
    if wanted < 3 or (most is not None and wanted > most):
        fix = f"--length {most or LENGTH}"
        raise UsageError(f"the model reads 3 to {most or 'any number of'} tokens, found {wanted}", where="--length", fix=fix)
    return wanted


def _spans(config: EncoderDecoderConfig, tokenizer: Tokenizer) -> SpansConfig:
    """Span corruption with the sentinels that the tokenizer has."""
    ids = tokenizer.sentinels
    if not ids:
        message = "the tokenizer has no <extra_id_0>, which stands for hidden text where a T5 is trained on"
        raise DataError(
            message, fix="--writes takes it as a model that writes; T5EncoderModel in architectures, its encoder alone"
        )
    step = 1 if len(ids) == 1 or ids[1] > ids[0] else -1
    count = next((i for i, id in enumerate(ids) if id != ids[0] + i * step), len(ids))
    return SpansConfig(sentinels=count, first_sentinel=ids[0], sentinel_step=step, decoder=config.decoder)
