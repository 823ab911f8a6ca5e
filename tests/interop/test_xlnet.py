"""XLNet: parity with transformers' classes at 1e-5 on random weights: one stream, two streams, memory, heads; both directions."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encoderkit.errors import UsageError
from encoderkit.inference import Model, open_model, vocabulary_of
from encoderkit.interop.hf import export, from_hf, to_hf
from encoderkit.interop.layout import Head, HeadKind, SpecialIds
from encoderkit.learner import Export
from encoderkit.models.build import build_classification_head, build_encoder, build_vocabulary_head
from encoderkit.models.config import BertConfig, XlnetConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import pool
from encoderkit.models.xlnet import Order
from encoderkit.objectives.config import PermutedConfig
from encoderkit.objectives.permuted import Permuted
from encoderkit.stages import import_model
from encoderkit.stages.export import TEXTS, run
from encoderkit.stages.finetune import _check_segments
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.texts import assemble, inputs_of
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.training.checkpoint import Description, State, save

transformers = pytest.importorskip("transformers")

VOCABULARY = 61
IDS = SpecialIds(pad=0, cls=2, sep=3)
LABELS = ("bad", "good", "很好")
CONFIGS = {
    "plain": XlnetConfig(dim=24, layers=3, heads=3, hidden=31),
    "other": XlnetConfig(dim=14, layers=2, heads=1, activation="relu", norm_eps=1e-5),
}
CLASSES = {"none": "XLNetModel", "permuted": "XLNetLMHeadModel", "classify": "XLNetForSequenceClassification"}
every_config = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Ours(nn.Module):
    """An encoder and its head, named as a learner names them."""

    def __init__(self, config: XlnetConfig, kind: HeadKind) -> None:
        super().__init__()
        self.encoder: Any = build_encoder(config, VOCABULARY, IDS.pad)
        self.head: Any = nn.Identity()
        if kind == "permuted":
            self.head = build_vocabulary_head(config, VOCABULARY)
        elif kind == "classify":
            self.head = build_classification_head(config, len(LABELS), 0.1)


def both(name: str, kind: HeadKind, **settings: Any) -> tuple[Any, Any]:
    """Transformers' model with random weights, and ours with the same ones."""
    torch.manual_seed(0)
    config = CONFIGS[name]
    described = transformers.XLNetConfig(
        vocab_size=VOCABULARY, d_model=config.dim, n_layer=config.layers, n_head=config.heads, d_inner=config.inner,
        ff_activation=config.activation, layer_norm_eps=config.norm_eps, num_labels=len(LABELS), **settings,
    )  # fmt: skip
    theirs = getattr(transformers, CLASSES[kind])(described).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = Ours(config, kind).eval()
    ours.load_state_dict(from_hf(config, kind, theirs.state_dict(), IDS.pad))
    return theirs, ours


def batch(left: bool = False) -> tuple[Inputs, dict[str, Tensor]]:
    """Three texts in two segments and [CLS] in a third, padded on the right or on the left, for us and for transformers."""
    lengths, width = torch.tensor([29, 2, 17]), 29
    place = torch.arange(width)
    mask = place >= width - lengths[:, None] if left else place < lengths[:, None]
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    types = ((place >= 9).long() + (place == (width - 1 if left else 0)).long() * 2) * mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    theirs = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": types}
    return Inputs(ids, mask.long(), positions, types), theirs


@pytest.mark.parametrize("left", [False, True])
@every_config
def test_hidden_states(name: str, left: bool) -> None:
    theirs, ours = both(name, "none")
    inputs, arguments = batch(left)
    found = ours.encoder(inputs)
    assert (found - theirs(**arguments).last_hidden_state)[inputs.mask].abs().max() < 1e-5
    del arguments["token_type_ids"]
    one = ours.encoder(inputs._replace(segments=None))
    assert (one - theirs(**arguments).last_hidden_state)[inputs.mask].abs().max() < 1e-5
    assert (one - found)[inputs.mask].abs().max() > 1e-3


def permuted(generator: torch.Generator, lengths: list[int], width: int, targets: int) -> tuple[Order, dict[str, Tensor]]:
    """The first token of each text is known; the others have a random order, and the last of it are guessed."""
    ranks, places = torch.zeros(len(lengths), width, dtype=torch.int64), []
    for row, length in enumerate(lengths):
        order = 1 + torch.randperm(length - 1, generator=generator)
        ranks[row, order] = 1 + torch.arange(length - 1)
        places.append(order[-targets:])
    hidden = ranks[:, :, None] <= ranks[:, None]  # what has no lower rank is not seen; a token's own content is, there too
    known = (ranks == 0)[:, :, None] & (ranks == 0)[:, None]
    mapping = nn.functional.one_hot(torch.stack(places), width).float()
    return Order(ranks, torch.stack(places)), {"perm_mask": (hidden & ~known).float(), "target_mapping": mapping}


@pytest.mark.parametrize("segments", [False, True])
@every_config
def test_two_streams_logits_and_loss(name: str, segments: bool) -> None:
    theirs, ours = both(name, "permuted")
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (3, 14), generator=generator)
    lengths = [14, 9, 11]
    mask = torch.arange(14) < torch.tensor(lengths)[:, None]
    types = torch.randint(0, 3, ids.shape, generator=generator) if segments else None
    order, arguments = permuted(generator, lengths, 14, 4)
    labels = ids.gather(1, order.places)
    found = theirs(ids, mask.long(), token_type_ids=types, labels=labels, **arguments)
    logits = ours.head(ours.encoder.queries(Inputs.of(ids, mask, types), order), ours.encoder.tokens.weight)
    assert (logits - found.logits).abs().max() < 1e-5
    assert abs(nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) - found.loss) < 1e-5


@every_config
def test_memory(name: str) -> None:
    theirs, ours = both(name, "none", mem_len=None)
    generator = torch.Generator().manual_seed(2)
    before = torch.randint(5, VOCABULARY, (2, 6), generator=generator)
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=generator)
    order, arguments = permuted(generator, [9, 9], 9, 3)
    mems = theirs(before, use_mems=True).mems
    memory = ours.encoder.remember(Inputs.of(before))
    for own, other in zip(memory.layers, mems, strict=True):
        assert (own - other.transpose(0, 1)).abs().max() < 1e-5
    expected = theirs(ids, mems=mems, use_mems=True, **arguments).last_hidden_state
    assert (ours.encoder.queries(Inputs.of(ids), order, memory) - expected).abs().max() < 1e-5
    forgetful = ours.encoder.queries(Inputs.of(ids), order)
    assert (forgetful - expected).abs().max() > 1e-3
    # A memory of less than it has room for, and one of another document, are as if the rest were not there.
    short = ours.encoder.remember(Inputs(before, torch.tensor([[0, 0, 0, 0, 1, 1], [2] * 6]), torch.zeros_like(before)))
    shorter = theirs(before[:, 4:], use_mems=True).mems
    expected = theirs(ids, mems=shorter, use_mems=True, **arguments).last_hidden_state
    found = ours.encoder.queries(Inputs.of(ids), order, short)
    assert (found[0] - expected[0]).abs().max() < 1e-5
    assert (found[1] - forgetful[1]).abs().max() < 1e-5


@pytest.mark.parametrize("last", [False, True])
@every_config
def test_classification_logits(name: str, last: bool) -> None:
    theirs, ours = both(name, "classify", summary_type="last" if last else "first")
    inputs, arguments = batch(left=last)
    hidden = ours.encoder(inputs)
    pooled = hidden[:, -1] if last else pool("cls", hidden, inputs.mask)
    assert (ours.head(pooled) - theirs(**arguments).logits).abs().max() < 1e-5


@pytest.mark.parametrize("kind", CLASSES)
@every_config
def test_what_is_exported_loads_with_every_tensor(name: str, kind: HeadKind, tmp_path: Path) -> None:
    config = CONFIGS[name]
    theirs, ours = both(name, kind, summary_type="first")
    named = to_hf(config, kind, ours.state_dict(), IDS.pad)
    for label, tensor in named.items():
        torch.testing.assert_close(tensor, theirs.state_dict()[label], atol=0, rtol=0)
    head = Head(kind, LABELS if kind == "classify" else ())
    exported = export(config, head, ours.state_dict(), {}, VOCABULARY, IDS)
    for file, data in exported.files.items():
        (tmp_path / file).write_bytes(data)
    loaded, report = getattr(transformers, str(exported.auto_class)).from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded).__name__ == CLASSES[kind] and not any(report.values()), report
    _, arguments = batch()
    found = loaded.eval()(**arguments)[0]
    torch.testing.assert_close(found, theirs(**arguments)[0], atol=1e-5, rtol=1e-5)
    assert loaded.config.layer_norm_eps == config.norm_eps and loaded.config.dropout == config.dropout


def tokenizer_at(folder: Path) -> Tokenizer:
    """A tokenizer of transformers' own class for XLNet, with a piece for each character of the texts."""
    letters = sorted({c for text in TEXTS for c in unicodedata.normalize("NFKD", text) if not c.isspace()} | {"▁"})
    named = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    pieces = [(piece, 0.0) for piece in named] + [(piece, -3.0) for piece in [*letters, "▁a", "th", "en"]]
    transformers.XLNetTokenizer(vocab=pieces).save_pretrained(folder)
    return open_tokenizer(folder)


@pytest.mark.parametrize(
    "task",
    [ClassifyConfig(text="a"), ClassifyConfig(text=["a", "b"], multiple=True), None],
    ids=["single", "pair", "words"],
)
def test_with_a_tokenizer_of_its_own_texts_are_read_as_there(task: ClassifyConfig | None, tmp_path: Path) -> None:
    """[CLS] stands last, in a third segment, and padding first: the stage compares ids and logits with transformers'."""
    tokenizer = tokenizer_at(tmp_path / "tokenizer")
    [row] = assemble([["a then", "then"][: len(task.columns) if task else 1]], tokenizer, 32)
    assert row.ids[-2:].tolist() == [tokenizer.sep, tokenizer.cls] and row.segments is not None and row.segments[-1] == 2
    vocabulary, config = vocabulary_of(tokenizer), CONFIGS["plain"]
    assert vocabulary.summary == "last"
    torch.manual_seed(0)
    learner = Classify(task, config, vocabulary, 48, LABELS) if task else Permuted(PermutedConfig(), config, vocabulary, 48)
    for parameter in learner.parameters():
        nn.init.normal_(parameter, std=0.2)
    described = {
        "format": 1,
        "encoder": config.model_dump(mode="json"),
        **({"task": task.model_dump(mode="json")} if task else {"objective": PermutedConfig().model_dump(mode="json")}),
        "vocabulary": vocabulary._asdict(),
        "length": 48,
    }
    description = Description(described, list(LABELS) if task else None, tokenizer.save_files())
    save(tmp_path / "run", learner, [], State(update=1), description)
    result = run(tmp_path / "run", ["hf"], tmp_path / "out")
    assert result["parity"]["max_abs_diff"] < 1e-5 and result["parity"]["rows"] >= len(TEXTS)
    written = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert written["summary_type"] == "last"
    if task is None:
        return
    # And back: what transformers saves is imported with equal weights, and its tokenizer with the same layout.
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    theirs.save_pretrained(tmp_path / "back")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "back")
    same_again(tmp_path / "back", tmp_path / "imported", learner)


def same_again(source: Path, out: Path, learner: nn.Module) -> Model:
    """What is imported from `source`, whose tensors are those of `learner`."""
    assert import_model.run(str(source), out)["unused"] == []
    model = open_model(out)
    assert isinstance(model.learner, nn.Module) and model.learner.vocabulary.summary == "last"
    for label, tensor in model.learner.state_dict().items():
        assert torch.equal(tensor, learner.state_dict()[label])
    return model


@pytest.mark.parametrize("kind", ["permuted", "classify"])
def test_a_published_checkpoint_is_imported_and_says_the_same_of_texts(kind: HeadKind, tmp_path: Path) -> None:
    """Texts through both tokenizers and both models; [CLS] stands last, and the classifier reads it there."""
    tokenizer = tokenizer_at(tmp_path / "theirs")
    config = transformers.XLNetConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, n_layer=2, n_head=2, d_inner=24, id2label=dict(enumerate(LABELS)),
        pad_token_id=tokenizer.pad,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = getattr(transformers, CLASSES[kind])(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    result = import_model.run(str(tmp_path / "theirs"), tmp_path / "ours")
    assert result["family"] == "xlnet" and result["head"] == kind and result["unused"] == []
    model = open_model(tmp_path / "ours")
    texts = [text for text in TEXTS if 0 < len(text) < 150]
    # transformers 5 leaves XLNet's segments out unless asked for them; earlier versions and the authors' code do not.
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    arguments = read(texts, padding=True, return_tensors="pt", return_token_type_ids=True)
    assert not arguments["attention_mask"][texts.index("x"), 0]  # padding comes first there
    found = theirs(**arguments).logits
    inputs = inputs_of(assemble([[text] for text in texts], model.tokenizer, 512), tokenizer.pad, packed=False)
    exported = model.learner.exported()
    assert isinstance(exported, Export)
    expected = exported.outputs(inputs)
    if kind == "permuted":
        found, expected = found[arguments["attention_mask"].bool()], expected[inputs.mask]
    assert (found - expected).abs().max() < 1e-5


def test_an_encoder_with_two_segments_does_not_read_three(tmp_path: Path) -> None:
    tokenizer = tokenizer_at(tmp_path / "tokenizer")
    with pytest.raises(UsageError, match=r"in 3 segments, and the encoder has 2"):
        _check_segments(BertConfig(), tokenizer)
    for config in (BertConfig(segments=3), BertConfig(segments=0), CONFIGS["plain"]):
        _check_segments(config, tokenizer)
