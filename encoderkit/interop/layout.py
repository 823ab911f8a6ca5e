"""How a family of transformers is described: a table of names that is read in both directions, and its config.json.

A family is one file with one `Layout`, and a line in `families.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from encoderkit.errors import DataError, shown
from encoderkit.learner import HeadKind
from encoderkit.models.config import TransformerConfig
from encoderkit.models.families import Activation, Direction
from encoderkit.text.special import SpecialIds

Form = Literal["same", "vector", "flat", "transposed"]
AUTO_CLASSES: dict[HeadKind, str] = {
    "none": "AutoModel",
    "masked": "AutoModelForMaskedLM",
    "pairs": "AutoModelForPreTraining",
    "causal": "AutoModelForCausalLM",
    "permuted": "AutoModelForCausalLM",
    "replaced": "AutoModelForPreTraining",
    "classify": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu_squared": "relu2",
    "silu": "silu",
    "tanh": "tanh",
}


class Head(NamedTuple):
    """What stands on the encoder, as far as the layout depends on it."""

    kind: HeadKind
    labels: tuple[str, ...] = ()
    several: bool = False
    """Several labels a text."""
    pooling: str = "cls"
    dropout: float = 0.0
    numbers: bool = False
    """The outputs are numbers, not the scores of labels."""
    own: bool = False
    """A vocabulary head with a table of its own (`head.own`), not the word embeddings."""


class Rule(NamedTuple):
    """One of our tensors and what it is called in transformers."""

    ours: str
    theirs: tuple[str, ...]
    """Several: ours holds them one below the other, in this order."""
    shape: tuple[int, ...] = ()
    """Of each of theirs, where ours may have none or another one."""
    present: bool = True
    """Whether ours has it; if not, theirs is zero."""
    before: int = 0
    """Rows that theirs has before the first of ours."""
    scale: float = 1.0
    """Theirs is ours times this."""
    form: Form = "same"
    """How theirs becomes ours: by all its axes made one (vector), or all but the first (flat), which are then the rows
    (transposed: theirs is (in, out) where ours is (out, in))."""


class Demand(NamedTuple):
    """A setting of ours that a family of transformers cannot vary at will."""

    setting: str
    value: object
    legal: tuple[object, ...]


class Layout(NamedTuple):
    """A family: what transformers calls its tensors and settings, and what it cannot hold."""

    model_type: str
    classes: dict[HeadKind, str]
    """The class for each head that it has."""
    rules: Callable[[Any, HeadKind, int], Iterator[Rule]]
    """The config, the head and the id of padding to the names of all tensors."""
    demands: Callable[[Any], list[Demand]]
    settings: Callable[[Any, Head, SpecialIds], dict[str, Any]]
    """What its config.json has besides what all families share."""
    read: Callable[[Mapping[str, Any]], Any]
    """The config that a config.json means; raises `DataError` for a setting that ours has no place for."""
    root: str
    """What stands before the names of the encoder's tensors where there is a head."""
    table: str | None = None
    """That of its vocabulary head, which is the word embeddings where the two are tied."""
    repeated: Mapping[str, str] = {}
    """Names under which a tensor may be saved a second time, and the first."""
    renamed: Mapping[str, str] = {}
    """Names that other versions give to tensors."""
    ties: bool = True
    """Whether transformers can tie the two tables."""
    direction: Direction = "both"
    """How it reads."""
    pooling: tuple[str, ...] = ("cls",)
    """Those that its classifier can have; the first where its config.json does not say."""
    windows: bool = False
    """Whether some layers may see no farther than a window."""
    loader: str | None = None
    """The class that loads it without a head, where that is none of `AUTO_CLASSES`."""


def classes(name: str, *kinds: HeadKind) -> dict[HeadKind, str]:
    """Those of most families: the encoder alone, with heads of these kinds, and with those of labels, of tags and of spans."""
    kinds = (*kinds, "classify", "tag", "span")
    return {"none": f"{name}Model", **{kind: AUTO_CLASSES[kind].replace("AutoModel", name) for kind in kinds}}


def linear(ours: str, *theirs: str, width: int, bias: bool, scale: float = 1.0, transposed: bool = False) -> Iterator[Rule]:
    """A linear layer or a norm that has a bias in transformers; `bias`: whether ours has one."""
    form = "transposed" if transposed else "same"
    yield Rule(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), scale=scale, form=form)
    yield Rule(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), (width,), present=bias, scale=scale)


def plain(ours: str, *theirs: str, bias: bool = False, scale: float = 1.0) -> Iterator[Rule]:
    """A linear layer or a norm that has a bias in transformers if and only if ours has one."""
    for part in ("weight", "bias") if bias else ("weight",):
        yield Rule(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), scale=scale)


def legal(config: Any, **settings: Any) -> list[Demand]:
    """What settings of `config` are legal: one value each, or a tuple of them."""
    return [
        Demand(name, getattr(config, name), values if isinstance(values, tuple) else (values,))
        for name, values in settings.items()
    ]


def block(config: TransformerConfig, **settings: Any) -> list[Demand]:
    """What is the same in all of BERT's descendants, and `settings`, as in `legal`."""
    widths = (None, config.dim // config.heads)
    return legal(config, head_dim=widths, attention_scale="width", norm="layer", **settings)


def unshared(config: TransformerConfig) -> list[Demand]:
    """Of families whose layers each have weights of their own, and embeddings as wide as the layers."""
    return legal(config, embedding_dim=None, groups=(None, config.layers), group_blocks=1)


def sizes(config: TransformerConfig, head: Head) -> dict[str, Any]:
    """The settings that BERT's descendants all have under the same names."""
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "attention_dropout": config.attention_dropout,
        "classifier_dropout": head.dropout,
    }


NO_COUNTERPART = "take another checkpoint: what this one computes has no counterpart here"
_SYNONYMS: dict[str, Activation] = {"gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_python": "gelu", "swish": "silu"}


def activation(described: Mapping[str, Any], key: str, default: str = "gelu") -> Activation:
    """Our name of the nonlinearity that a config.json names under `key`; `default` is what transformers takes without it."""
    found = str(described.get(key, default))
    names: dict[str, Activation] = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    names |= _SYNONYMS
    if found not in names:
        raise DataError(f"{key} is {shown(found)}; known here: {', '.join(sorted(names))}", fix=NO_COUNTERPART)
    return names[found]


def demand(described: Mapping[str, Any], key: str, *legal: object) -> None:
    """Raise `DataError` unless the setting `key` of a config.json is missing or one of `legal`."""
    if key in described and described[key] not in legal:
        raise DataError(
            f"{key} is {shown(str(described[key]))}, for which there is no place here; legal: {legal}", fix=NO_COUNTERPART
        )


def demand_plain_rope(described: Mapping[str, Any]) -> None:
    """Raise `DataError` where angles of rotary positions are stretched for longer texts."""
    demand(described, "rope_scaling", None)
    demand(described, "rope_type", "default", None)
