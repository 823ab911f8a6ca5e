"""Parity with transformers' own classes at 1e-5, on random weights, in both directions of the tables of names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.errors import DataError
from encoderkit.interop.families import LAYOUTS, obstacle, rules
from encoderkit.interop.hf import export, from_hf, to_hf
from encoderkit.interop.layout import Head, HeadKind, SpecialIds
from encoderkit.learner import IGNORE, Vocabulary
from encoderkit.models.build import (
    build_classification_head,
    build_encoder,
    build_replaced_head,
    build_tagging_head,
    build_vocabulary_head,
)
from encoderkit.models.config import (
    AlbertConfig,
    BertConfig,
    CnnConfig,
    DebertaConfig,
    ElectraConfig,
    EncoderConfig,
    EsmcConfig,
    GptConfig,
    LstmConfig,
    ModernBertConfig,
    RobertaConfig,
    T5Config,
    XlnetConfig,
)
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import pool
from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig

transformers = pytest.importorskip("transformers")

VOCABULARY = 67
IDS = SpecialIds(pad=0, cls=2, sep=3)
LABELS = ("bad", "good", "很好")
FAMILIES: dict[
    str, BertConfig | RobertaConfig | AlbertConfig | ElectraConfig | ModernBertConfig | EsmcConfig | DebertaConfig | GptConfig
] = {
    "bert": BertConfig(dim=20, layers=2, heads=4, hidden=33, max_length=40),
    "bert-other": BertConfig(
        dim=18, layers=3, heads=3, max_length=31, activation="relu_squared", bias=False, segments=0, position="sinusoidal"
    ),
    "bert-no-positions": BertConfig(dim=16, layers=1, heads=1, position="none", segments=3, activation="silu"),
    "roberta-no-bias": RobertaConfig(dim=21, layers=2, heads=7, bias=False, max_length=40),
    "roberta": RobertaConfig(dim=20, layers=2, heads=2, hidden=50, max_length=33, activation="gelu_tanh"),
    "albert": AlbertConfig(dim=24, layers=3, heads=3, hidden=33, max_length=40, embedding_dim=10),
    "albert-groups": AlbertConfig(
        dim=20, layers=7, heads=4, max_length=31, embedding_dim=7, groups=3, group_blocks=2, segments=3
    ),
    "albert-other": AlbertConfig(
        dim=15, layers=3, heads=5, embedding_dim=15, groups=3, bias=False, segments=0, position="sinusoidal", activation="relu"
    ),
    "modernbert": ModernBertConfig(dim=24, layers=5, heads=3, hidden=31, window=6, max_length=50),
    "modernbert-other": ModernBertConfig(
        dim=12, layers=3, heads=1, hidden=20, window=5, global_every=2, bias=True, activation="relu_squared", rotary_base=50.0
    ),
    "modernbert-global": ModernBertConfig(dim=12, layers=2, heads=2, hidden=20, window=None, norm_eps=1e-6),
    "electra": ElectraConfig(dim=20, layers=2, heads=2, hidden=50, max_length=33, embedding_dim=7, activation="relu"),
    "electra-other": ElectraConfig(dim=21, layers=2, heads=3, bias=False, segments=0, position="sinusoidal", embedding_dim=30),
    "electra-wide": ElectraConfig(dim=20, layers=1, heads=4, segments=1),
    "deberta": DebertaConfig(dim=20, layers=2, heads=2, hidden=33, max_length=40, buckets=8),
    "deberta-other": DebertaConfig(
        dim=18,
        layers=3,
        heads=3,
        embedding_dim=7,
        max_length=30,
        buckets=None,
        share_projections=False,
        distance_norm=False,
        position="learned",
        segments=2,
        activation="relu",
        terms=("position_to_content", "content_to_position"),
    ),
    "deberta-c2p": DebertaConfig(dim=16, layers=2, heads=4, buckets=64, terms=("content_to_position",), share_projections=False),
    "deberta-p2c": DebertaConfig(dim=16, layers=2, heads=1, max_length=31, buckets=7, terms=("position_to_content",)),
    "esmc": EsmcConfig(dim=24, layers=3, heads=2, hidden=31, max_length=44),
    "gpt": GptConfig(dim=24, layers=3, heads=3, hidden=31, max_length=40),
    "gpt-other": GptConfig(dim=20, layers=2, heads=5, max_length=31, bias=False, activation="relu", norm_eps=1e-4),
    "gpt-sinusoidal": GptConfig(dim=16, layers=1, heads=1, max_length=29, position="sinusoidal"),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
every_masked = pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("gpt")])
every_gpt = pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("gpt")])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Ours(nn.Module):
    """An encoder and its head, named as a learner names them."""

    def __init__(self, config: EncoderConfig, kind: HeadKind, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kind = kind
        self.encoder: Any = build_encoder(config, VOCABULARY, IDS.pad)
        self.head: Any = nn.Identity()
        if kind in ("masked", "pairs", "causal"):
            self.head = build_vocabulary_head(config, VOCABULARY)
        if kind == "replaced":
            self.head = build_replaced_head(config)
        if kind == "pairs":
            self.pairs = nn.ModuleDict({"head": build_classification_head(config, 2, 0.0)})
        if kind == "classify":
            self.head = build_classification_head(config, len(LABELS), 0.1)
        if kind == "tag":
            self.head = build_tagging_head(config, len(LABELS), 0.1)
        for parameter in self.parameters():  # as unlike fresh weights as can be: no zeros, no ones
            nn.init.normal_(parameter, std=0.25)
        self.eval()

    def forward(self, inputs: Inputs, pooling: Any = "cls") -> Tensor:
        hidden = self.encoder(inputs)
        if self.kind in ("masked", "pairs", "causal"):
            return self.head(hidden.flatten(0, 1), self.encoder.tokens.weight).view(*hidden.shape[:2], -1)
        return self.head(pool(pooling, hidden, inputs.mask) if self.kind == "classify" else hidden)


def batch(segments: int) -> tuple[Inputs, dict[str, Tensor]]:
    """A padded batch of odd size, for us and for transformers."""
    lengths = torch.tensor([29, 1, 17])
    mask = torch.arange(29) < lengths[:, None]
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    types = ((torch.arange(29) >= 9) & mask).long() if segments > 1 else None
    theirs = {"input_ids": ids, "attention_mask": mask.long()}
    return Inputs.of(ids, mask, types), theirs if types is None else {**theirs, "token_type_ids": types}


def left_padded() -> tuple[Inputs, dict[str, Tensor]]:
    """The same batch with its padding on the left; transformers is told the positions, as its `generate` does."""
    inputs, _ = batch(0)
    turned = Inputs(*(torch.stack([row.roll(int((~real).sum())) for row, real in zip(part, inputs.mask, strict=True)])
                      for part in (inputs.ids, inputs.documents, inputs.positions)))  # fmt: skip
    arguments = {"input_ids": turned.ids, "attention_mask": turned.mask.long(), "position_ids": turned.positions}
    return turned, arguments


def write(folder: Path, config: EncoderConfig, head: Head, ours: Ours) -> str | None:
    exported = export(config, head, ours.state_dict(), {}, VOCABULARY, IDS)
    for name, data in exported.files.items():
        (folder / name).write_bytes(data)
    assert (exported.auto_class is None) == (exported.note is not None)
    return exported.auto_class


def load(folder: Path, auto_class: str | None, **settings: Any) -> Any:
    """With transformers' report of missing and unexpected tensors held to be empty."""
    assert auto_class is not None
    model, report = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(report.values()), report
    return model.eval()


@every_family
def test_hidden_states(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    ours = Ours(config, "none")
    auto_class = write(tmp_path, config, Head("none"), ours)
    pooler = {"add_pooling_layer": False} if isinstance(config, BertConfig | RobertaConfig | AlbertConfig) else {}
    theirs = load(tmp_path, auto_class, **pooler)
    inputs, arguments = batch(config.segments)
    difference = ours(inputs) - theirs(**arguments).last_hidden_state
    assert difference[inputs.mask].abs().max() < 1e-5


@every_masked
def test_masked_logits(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    ours = Ours(config, "masked")
    theirs = load(tmp_path, write(tmp_path, config, Head("masked"), ours))
    inputs, arguments = batch(config.segments)
    difference = ours(inputs) - theirs(**arguments).logits
    assert difference[inputs.mask].abs().max() < 1e-5


@every_gpt
def test_causal_logits_and_loss_with_padding_on_either_side(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    ours = Ours(config, "causal")
    auto_class = write(tmp_path, config, Head("causal"), ours)
    assert auto_class == "AutoModelForCausalLM"
    theirs = load(tmp_path, auto_class)
    for inputs, arguments in (batch(0), left_padded()):
        found = theirs(**arguments, labels=torch.where(inputs.mask & (inputs.positions > 0), inputs.ids, -100))
        logits = ours(inputs)
        assert (logits - found.logits)[inputs.mask].abs().max() < 1e-5
        learner = Causal(CausalConfig(), config, Vocabulary(VOCABULARY, 0, 1, 2, 3, 4), 29)
        learner.load_state_dict(ours.state_dict())
        following = torch.where((inputs.documents[:, 1:] > 0) & (inputs.documents[:, :-1] > 0), inputs.ids[:, 1:], IGNORE)
        targets = {"next": torch.nn.functional.pad(following, (0, 1), value=IGNORE)}
        mean = learner.eval()(inputs, targets)["next"] / (targets["next"] != IGNORE).sum()
        assert abs(mean - found.loss) < 1e-5


@every_gpt
def test_the_last_token_classifies_with_padding_on_either_side(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    ours = Ours(config, "classify")
    theirs = load(tmp_path, write(tmp_path, config, Head("classify", LABELS, pooling="last"), ours))
    for inputs, arguments in (batch(0), left_padded()):
        assert (ours(inputs, "last") - theirs(**arguments).logits).abs().max() < 1e-5


@pytest.mark.parametrize("several", [False, True])
@every_family
def test_classification_logits(name: str, several: bool, tmp_path: Path) -> None:
    config = FAMILIES[name]
    pooling = "mean" if several and isinstance(config, ModernBertConfig) else "cls"
    pooling = "last" if isinstance(config, GptConfig) else pooling
    ours = Ours(config, "classify")
    theirs = load(tmp_path, write(tmp_path, config, Head("classify", LABELS, several, pooling, 0.1), ours))
    inputs, arguments = batch(config.segments)
    assert (ours(inputs, pooling) - theirs(**arguments).logits).abs().max() < 1e-5
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {label: i for i, label in enumerate(LABELS)}
    assert theirs.config.problem_type == ("multi" if several else "single") + "_label_classification"


@pytest.mark.parametrize(
    "config",
    [*FAMILIES.values(), T5Config(dim=16, layers=2, heads=2), XlnetConfig(dim=16, layers=2, heads=2)],
    ids=lambda c: c.kind,
)
def test_logits_of_tags(config: Any, tmp_path: Path) -> None:
    ours = Ours(config, "tag")
    auto_class = write(tmp_path, config, Head("tag", LABELS, dropout=0.1), ours)
    assert auto_class == "AutoModelForTokenClassification"
    theirs = load(tmp_path, auto_class)
    inputs, arguments = batch(getattr(config, "segments", 0))
    found = theirs(**arguments).logits
    difference = (ours(inputs) - found)[inputs.mask]
    assert difference.abs().max() < 1e-5 * max(1, float(found.abs().max()))
    assert theirs.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("electra")])
def test_logits_of_having_been_replaced(name: str, tmp_path: Path) -> None:
    ours = Ours(FAMILIES[name], "replaced")
    theirs = load(tmp_path, write(tmp_path, FAMILIES[name], Head("replaced"), ours))
    inputs, arguments = batch(FAMILIES[name].segments)
    difference = ours(inputs) - theirs(**arguments).logits
    assert difference[inputs.mask].abs().max() < 1e-5


def test_every_tensor_of_transformers_is_read(tmp_path: Path) -> None:
    """From random weights of theirs, as an import begins: nothing is left over, hidden states and logits agree."""
    for name in ("electra", "deberta", "deberta-other"):
        config = FAMILIES[name]
        write(tmp_path, config, Head("masked"), Ours(config, "masked"))
        torch.manual_seed(5)
        auto = transformers.AutoModelForMaskedLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).eval()
        for parameter in auto.parameters():
            nn.init.normal_(parameter, std=0.25)
        ours = Ours(config, "masked")
        ours.load_state_dict(from_hf(config, "masked", auto.state_dict(), IDS.pad))
        inputs, arguments = batch(config.segments)
        assert (ours(inputs) - auto(**arguments).logits)[inputs.mask].abs().max() < 1e-5
        named = {part for rule in rules(config, "masked", IDS.pad) for part in rule.theirs}
        tied = {"generator_lm_head.weight", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
        assert auto.state_dict().keys() - named <= tied


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith(("bert", "roberta", "albert"))])
def test_hidden_states_and_the_masked_loss_of_the_longest_input_padded_on_either_side(
    name: str, side: str, tmp_path: Path
) -> None:
    """On the left, transformers' BERT counts positions from the first place, RoBERTa from the first token."""
    config = FAMILIES[name]
    ours = Ours(config, "masked")
    theirs = load(tmp_path, write(tmp_path, config, Head("masked"), ours))
    width = min(config.max_length, 120)
    mask = torch.arange(width) < torch.tensor([width, 1, width // 2, width - 3])[:, None]
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    types = (torch.arange(width) % max(1, config.segments)).expand_as(ids) * mask
    from_first = (mask.cumsum(1) - 1).clamp(min=0) if config.kind == "roberta" else torch.arange(width).expand_as(ids)
    inputs = Inputs(ids, mask.long(), from_first, types)
    labels = torch.where(mask & (ids % 4 == 0), ids, -100)
    found = theirs(
        input_ids=ids, attention_mask=mask.long(), token_type_ids=types, labels=labels, output_hidden_states=True
    )  # fmt: skip
    assert (ours.encoder(inputs) - found.hidden_states[-1])[mask].abs().max() < 1e-5
    logits = ours(inputs)
    assert (logits - found.logits)[mask].abs().max() < 1e-5
    assert float(cross_entropy(logits.flatten(0, 1), labels.flatten())) == pytest.approx(float(found.loss), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith(("bert", "albert"))])
def test_pretraining_logits_and_loss(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    ours = Ours(config, "pairs")
    theirs = load(tmp_path, write(tmp_path, config, Head("pairs"), ours))
    inputs, arguments = batch(config.segments)
    labels, follows = torch.where(inputs.mask & (inputs.ids % 3 == 0), inputs.ids, -100), torch.tensor([0, 1, 1])
    named = "next_sentence_label" if isinstance(config, BertConfig) else "sentence_order_label"
    found = theirs(**arguments, labels=labels, **{named: follows})
    words, told = ours(inputs), ours.pairs["head"](ours.encoder(inputs)[:, 0])
    assert (words - found.prediction_logits)[inputs.mask].abs().max() < 1e-5
    assert (told - (found.seq_relationship_logits if config.kind == "bert" else found.sop_logits)).abs().max() < 1e-5
    loss = cross_entropy(words.flatten(0, 1), labels.flatten()) + cross_entropy(told, follows)
    assert float(loss) == pytest.approx(float(found.loss), abs=1e-5)


@pytest.mark.parametrize("kind", ["none", "masked", "pairs", "replaced", "classify"])
@every_family
def test_from_hf_undoes_to_hf(name: str, kind: HeadKind) -> None:
    config = FAMILIES[name]
    kind = "causal" if kind == "masked" and isinstance(config, GptConfig) else kind
    if kind not in LAYOUTS[type(config)].classes:
        return
    ours = Ours(config, kind).state_dict()
    back = from_hf(config, kind, to_hf(config, kind, ours, IDS.pad), IDS.pad)
    if getattr(config, "position", None) == "sinusoidal":
        assert back.pop("encoder.positions.weight").shape == (config.max_length, config.embedding_dim or config.dim)
    assert back.keys() == ours.keys()
    for label, tensor in ours.items():
        torch.testing.assert_close(back[label], tensor, atol=0, rtol=1e-6)


def test_a_roberta_whose_padding_is_1_counts_positions_from_2() -> None:
    theirs = transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=VOCABULARY, hidden_size=20, num_hidden_layers=2, num_attention_heads=2, intermediate_size=50,
            max_position_embeddings=35, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    config = RobertaConfig(dim=20, layers=2, heads=2, hidden=50, max_length=33)
    encoder = build_encoder(config, VOCABULARY, 1).eval()
    tensors = from_hf(config, "none", theirs.state_dict(), pad=1)
    encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in tensors.items()})
    inputs, arguments = batch(1)
    ids = torch.where(inputs.mask, inputs.ids, 1)
    difference = encoder(inputs._replace(ids=ids)) - theirs(**{**arguments, "input_ids": ids}).last_hidden_state
    assert difference[inputs.mask].abs().max() < 1e-5


def test_from_hf_refuses_what_it_cannot_keep() -> None:
    config = FAMILIES["bert"]
    tensors = to_hf(config, "none", Ours(config, "none").state_dict(), 0)
    with pytest.raises(DataError, match="no place"):
        from_hf(config.model_copy(update={"bias": False}), "none", tensors, 0)
    del tensors["encoder.layer.1.output.dense.weight"]
    with pytest.raises(DataError, match="missing"):
        from_hf(config, "none", tensors, 0)


@pytest.mark.parametrize(
    ("config", "head", "reason"),
    [
        (LstmConfig(dim=8), Head("classify", LABELS), "no class for encoders of kind lstm"),
        (CnnConfig(dim=8), Head("masked"), "no class for encoders of kind cnn"),
        (FAMILIES["bert"], Head("classify", LABELS, pooling="mean"), "bert cannot have pooling: mean"),
        (FAMILIES["modernbert"], Head("classify", LABELS, pooling="max"), "modernbert cannot have pooling: max"),
        (BertConfig(position="rotary", norm_order="pre"), Head("none"), "bert cannot have position: rotary, norm_order: pre"),
        (EsmcConfig(window=8, global_every=2), Head("none"), "esmc cannot have window: 8"),
        (BertConfig(direction="left_to_right"), Head("none"), "bert cannot have direction: left_to_right"),
        (AlbertConfig(embedding_dim=8, attention_scale="none"), Head("none"), "albert cannot have attention_scale: none"),
        (AlbertConfig(embedding_dim=8, norm="rms"), Head("none"), "albert cannot have norm: rms"),
        (FAMILIES["gpt"], Head("classify", LABELS, pooling="mean"), "gpt cannot have pooling: mean"),
        (GptConfig(direction="both"), Head("masked"), "no gpt with a head of kind masked"),
    ],
)
def test_what_transformers_does_not_have_is_said_and_written_anyway(config: Any, head: Head, reason: str) -> None:
    assert obstacle(config, head) is not None
    exported = export(config, head, Ours(config.model_copy(update={"dim": 8, "layers": 1}), head.kind).state_dict(), {}, 1, IDS)
    assert exported.auto_class is None and exported.note is not None and reason in exported.note
    assert set(exported.files) == {"config.json", "model.safetensors"}
    assert json.loads(exported.files["config.json"])["encoder"]["kind"] == config.kind
