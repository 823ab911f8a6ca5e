"""What holds of every encoder: padding and batch change nothing, gradients reach every parameter, it compiles."""

from typing import Any, get_args

import pytest
import torch
from torch import nn

from encoderkit.models.build import ENCODERS, build_classification_head, build_encoder, build_vocabulary_head
from encoderkit.models.config import (
    AlbertConfig,
    BertConfig,
    CnnConfig,
    DebertaConfig,
    ElectraConfig,
    EncoderConfig,
    EsmcConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    ModernBertConfig,
    RnnConfig,
    RobertaConfig,
    T5Config,
    TransformerConfig,
    XlnetConfig,
    longest,
    reading,
)
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import Pooling, pool

VOCABULARY = 50


@pytest.mark.parametrize("kind", ["albert", "electra"])
def test_sums_of_layers_keep_their_digits_under_autocast(kind: str) -> None:
    """Where embeddings are widened the product is in bf16, and the sums that follow it are not."""
    made: Any = build_encoder(CONFIGS[kind], VOCABULARY, 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert made._widened(made._embed(Inputs.of(torch.ones(1, 4, dtype=torch.long)))).dtype == torch.float32


CONFIGS = {
    "bert": BertConfig(dim=24, layers=3, heads=3, hidden=40),
    "roberta": RobertaConfig(dim=24, layers=2, heads=2, activation="gelu_tanh"),
    "albert": AlbertConfig(dim=24, layers=3, heads=3, hidden=40, embedding_dim=10),
    "shared": ModernBertConfig(dim=24, layers=4, heads=2, hidden=30, window=4, groups=2, group_blocks=2, embedding_dim=16),
    "modernbert": ModernBertConfig(dim=24, layers=4, heads=2, hidden=30, window=4, dropout=0.1),
    "electra": ElectraConfig(dim=24, layers=2, heads=2, embedding_dim=10),
    "deberta": DebertaConfig(dim=24, layers=2, heads=3, buckets=8, max_length=20),
    "deberta-apart": DebertaConfig(
        dim=24, layers=2, heads=2, buckets=None, max_length=12, share_projections=False, position="learned"
    ),
    "deberta-conv": DebertaConfig(dim=24, layers=2, heads=3, buckets=8, max_length=20, convolution=3, convolution_groups=2),
    "esmc": EsmcConfig(dim=24, layers=2, heads=2, hidden=30),
    "t5": T5Config(dim=24, layers=2, heads=3, head_dim=5, buckets=8, bucket_distance=12),
    "alibi": BertConfig(dim=24, layers=2, heads=3, position="alibi", norm="rms", window=6, global_every=2),
    "sinusoidal": BertConfig(dim=24, layers=2, heads=2, position="sinusoidal", norm_order="pre", segments=0),
    "none": BertConfig(dim=24, layers=2, heads=2, position="none", bias=False, mlp="gated", activation="relu_squared"),
    "t5-gpt": T5Config(dim=24, layers=2, heads=3, buckets=8, bucket_distance=12, direction="left_to_right"),
    "gpt": GptConfig(dim=24, layers=2, heads=2),
    "local-gpt": ModernBertConfig(dim=24, layers=3, heads=2, hidden=30, window=4, global_every=2, direction="left_to_right"),
    "transformer_xl": BertConfig(dim=24, layers=3, heads=2, position="transformer_xl", window=4, global_every=2),
    "xlnet": XlnetConfig(dim=24, layers=3, heads=3, hidden=40),
    "rnn": RnnConfig(dim=10, layers=2),
    "lstm": LstmConfig(dim=10, layers=2, embedding_dim=7),
    "gru": GruConfig(dim=10, layers=2, directions=1),
    "elmo": LstmConfig(dim=10, layers=3, embedding_dim=7, stacks="apart"),
    "causal-dilated": CnnConfig(dim=12, layers=3, kernel=2, direction="left_to_right"),
    "causal-gated": CnnConfig(dim=12, layers=2, style="gated", kernel=3, direction="left_to_right"),
    "dilated": CnnConfig(dim=12, layers=3, embedding_dim=9),
    "gated": CnnConfig(dim=12, layers=2, style="gated", kernel=5),
}
PACKING = [name for name, config in CONFIGS.items() if isinstance(config, TransformerConfig | XlnetConfig | DebertaConfig)]
every_encoder = pytest.mark.parametrize("name", CONFIGS)


def encoder_of(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    encoder = build_encoder(CONFIGS[name], VOCABULARY, 0)
    for parameter in encoder.parameters():  # far enough from zero that a leak would show
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return encoder


def rows(*lengths: int, width: int | None = None, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), width or max(lengths), dtype=torch.int64)
    for i, length in enumerate(lengths):
        ids[i, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
    return Inputs.of(ids, ids > 0)


def test_the_union_and_the_dict_agree() -> None:
    union = get_args(EncoderConfig)[0]
    assert set(get_args(union)) == set(ENCODERS)


@every_encoder
def test_shape_and_contract(name: str) -> None:
    encoder = encoder_of(name).eval()
    out = encoder(rows(5, 3))
    assert out.shape == (2, 5, encoder.dim) and out.isfinite().all()
    assert encoder.packs == (name in PACKING)
    assert encoder.max_length == longest(CONFIGS[name])
    assert isinstance(encoder.tokens, nn.Embedding) and encoder.tokens.padding_idx == 0


@every_encoder
def test_padding_and_batch_change_nothing(name: str) -> None:
    encoder = encoder_of(name).eval()
    batch = rows(9, 4, 1, width=14)
    together = encoder(batch)
    for i, length in enumerate((9, 4, 1)):
        alone = encoder(Inputs.of(batch.ids[i : i + 1, :length]))
        torch.testing.assert_close(together[i, :length], alone[0], atol=1e-5, rtol=1e-5)


@every_encoder
def test_the_content_of_padding_is_never_read(name: str) -> None:
    encoder = encoder_of(name).eval()
    batch = rows(6, 2)
    noisy = batch._replace(ids=torch.where(batch.mask, batch.ids, 7))
    assert torch.equal(encoder(batch)[batch.mask], encoder(noisy)[batch.mask])


@every_encoder
def test_a_vector_has_seen_what_its_config_says(name: str) -> None:
    """Changing one token changes nothing before it (both halves of the vectors apart: nothing after it), and what follows."""
    encoder = encoder_of(name).eval()
    batch, half = rows(9), encoder.dim // 2
    changed = batch._replace(ids=batch.ids.index_fill(1, torch.tensor([4]), 3))
    moved = (encoder(changed) != encoder(batch))[0]  # (T, D)
    assert moved[4].any()
    match reading(CONFIGS[name]):
        case "left_to_right":
            assert not moved[:4].any() and moved[5].any()
        case "apart":
            assert not moved[:4, :half].any() and moved[5:, :half].all()
            assert not moved[5:, half:].any() and moved[:4, half:].all()
        case "both":
            assert moved[3].any() and moved[5].any()


@pytest.mark.parametrize("name", PACKING)
def test_packed_documents_are_what_they_are_alone(name: str) -> None:
    encoder = encoder_of(name).eval()
    first, second = rows(6, seed=1), rows(5, seed=2)
    packed = Inputs(
        torch.cat((first.ids, second.ids, torch.zeros(1, 2, dtype=torch.int64)), 1),
        torch.tensor([[1] * 6 + [2] * 5 + [0] * 2]),
        torch.tensor([[*range(6), *range(5), 0, 0]]),
    )
    out = encoder(packed)
    torch.testing.assert_close(out[:, :6], encoder(first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[:, 6:11], encoder(second), atol=1e-5, rtol=1e-5)
    changed = packed._replace(ids=packed.ids.index_fill(1, torch.tensor([2, 5]), 9))
    assert torch.equal(encoder(changed)[:, 6:11], out[:, 6:11])  # exactly: nothing leaks at all
    assert not torch.equal(encoder(changed)[:, :6], out[:, :6])


@every_encoder
def test_every_parameter_gets_a_gradient(name: str) -> None:
    encoder = encoder_of(name)
    encoder.train()
    head = build_classification_head(CONFIGS[name], 3, dropout=0.1)
    words = build_vocabulary_head(CONFIGS[name], VOCABULARY)
    batch = rows(12, 8)
    if name in ("bert", "albert", "xlnet"):
        batch = batch._replace(segments=(batch.positions > 4).long())
    hidden = encoder(batch)
    loss = words(hidden[batch.mask], encoder.tokens.weight).logsumexp(-1).sum()
    (loss + head(pool("mean", hidden, batch.mask)).square().sum()).backward()
    for part in (encoder, head, words):
        for label, parameter in part.named_parameters():
            if label == "unknown" or label.endswith("relative.0.bias"):  # of the query stream; of keys, where it changes nothing
                continue
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label


@pytest.mark.parametrize(("layers", "groups", "blocks"), [(4, 1, 1), (5, 2, 1), (3, 3, 1), (4, 2, 3), (2, None, 2)])
def test_layers_that_share_are_layers_that_are_equal(layers: int, groups: int | None, blocks: int) -> None:
    """The same as a deep encoder without sharing whose layers hold copies, gradients included; parameters counted once."""
    shape = {"dim": 16, "heads": 2, "embedding_dim": 6, "norm_order": "pre", "window": 4, "global_every": 2, "dropout": 0.0}
    config = AlbertConfig(layers=layers, groups=groups, group_blocks=blocks, **shape)
    order = [b for layer in config.blocks for b in layer]
    shared = build_encoder(config, VOCABULARY, 0).eval()
    assert len(order) == layers * blocks and len(shared.layers) == (groups or layers) * blocks == len(set(order))
    copied = build_encoder(AlbertConfig(layers=layers, groups=None, group_blocks=blocks, **shape), VOCABULARY, 0).eval()
    state = {name: t for name, t in shared.state_dict().items() if not name.startswith("layers.")}
    for place, block in enumerate(order):
        state |= {f"layers.{place}.{name}": t for name, t in shared.layers[block].state_dict().items()}
    copied.load_state_dict(state)
    batch = rows(9, 5)
    torch.testing.assert_close(shared(batch), copied(batch))
    for encoder in (shared, copied):
        encoder(batch)[batch.mask].square().sum().backward()
    for block in set(order):
        found = shared.layers[block].mlp.up.weight.grad
        parts = [copied.layers[place].mlp.up.weight.grad for place, b in enumerate(order) if b == block]
        torch.testing.assert_close(found, torch.stack(parts).sum(0), atol=1e-4, rtol=1e-4)


def test_more_groups_than_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="groups"):
        AlbertConfig(layers=2, groups=3)


@pytest.mark.parametrize("name", ["bert", "modernbert", "esmc"])
def test_zero_output_starts_each_block_as_the_identity(name: str) -> None:
    config = CONFIGS[name].model_copy(update={"init": "zero_output", "norm_order": "pre"})
    encoder = build_encoder(config, VOCABULARY, 0).eval()
    batch = rows(5)
    expected = encoder.final_norm(encoder.embedding_norm(encoder._embed(batch)))
    torch.testing.assert_close(encoder(batch), expected)
    assert all(not layer.attention.out.weight.any() and not layer.mlp.down.weight.any() for layer in encoder.layers)


def test_gpt_starts_with_smaller_outputs() -> None:
    """Radford et al. 2019, section 2.3: residual layers scaled by one over the square root of their number."""
    layer = build_encoder(GptConfig(dim=64, layers=8, heads=2), 100, 0).layers[3]
    for part, std in ((layer.attention.out, 0.005), (layer.mlp.down, 0.005), (layer.attention.qkv, 0.02), (layer.mlp.up, 0.02)):
        assert part.weight.std().item() == pytest.approx(std, rel=0.1)


def test_two_stacks_apart_are_two_recurrent_networks() -> None:
    """Against torch's own LSTM of several layers, one over the text and one over the text reversed."""
    encoder = build_encoder(LstmConfig(dim=12, layers=3, embedding_dim=5, stacks="apart"), VOCABULARY, 0).eval()
    batch = rows(7)
    embedded, halves = encoder.tokens(batch.ids), []
    for name, x in (("forwards", embedded), ("backwards", embedded.flip(1))):
        lstm = nn.LSTM(5, 6, num_layers=3, batch_first=True)
        for i, layer in enumerate(encoder.layers):
            for part, value in getattr(layer, name).state_dict().items():
                getattr(lstm, part.replace("_l0", f"_l{i}")).data.copy_(value)
        out, _ = lstm(x)
        halves.append(out if name == "forwards" else out.flip(1))
    torch.testing.assert_close(encoder(batch), torch.cat(halves, -1))


def test_fresh_weights() -> None:
    encoder = build_encoder(BertConfig(dim=64, layers=1, heads=2), 1000, 0)
    assert not encoder.tokens.weight[0].any() and not encoder.layers[0].attention.qkv.bias.any()
    assert encoder.layers[0].attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    t5 = build_encoder(T5Config(dim=64, layers=1, heads=2, head_dim=16), 1000, 0)
    query, key, value = t5.layers[0].attention.qkv.weight.chunk(3)
    assert query.std().item() == pytest.approx((64 * 16) ** -0.5, rel=0.1)
    assert key.std().item() == pytest.approx(1 / 8, rel=0.1) and value.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert t5.layers[0].mlp.down.weight.std().item() == pytest.approx(1 / 16, rel=0.1)
    assert t5.distance_bias.table.weight.std().item() == pytest.approx(1 / 8, rel=0.3)
    assert t5.tokens.weight[1:].std().item() == pytest.approx(1, rel=0.1) and not t5.tokens.weight[0].any()
    lstm = build_encoder(LstmConfig(dim=8), 10, 0).layers[0].forwards
    torch.testing.assert_close(lstm.bias_ih_l0[4:8] + lstm.bias_hh_l0[4:8], torch.ones(4))


@pytest.mark.parametrize("name", ["bert", "shared", "modernbert", "t5", "deberta", "alibi", "transformer_xl", "xlnet", "dilated"])
def test_traces_without_a_graph_break(name: str) -> None:
    encoder = encoder_of(name).eval()
    traced = torch.compile(encoder, fullgraph=True, backend="eager")
    batch = rows(7, 5)
    torch.testing.assert_close(traced(batch), encoder(batch))


@pytest.mark.parametrize("name", ["bert", "modernbert", "t5", "deberta", "alibi", "transformer_xl", "xlnet", "lstm", "dilated"])
def test_bf16_autocast_is_near_fp32(name: str) -> None:
    if name == "lstm" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch has no LSTM in bf16 for this processor")
    torch.manual_seed(0)
    encoder = build_encoder(CONFIGS[name], VOCABULARY, 0).eval()
    batch = rows(9, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(batch)
    torch.testing.assert_close(low.float(), encoder(batch), atol=0.05, rtol=0.05)


def test_pooling() -> None:
    hidden = torch.tensor([[[1.0, -1], [3, -5], [9, 9]], [[2, 2], [8, 8], [8, 8]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected: dict[Pooling, list[list[float]]] = {
        "cls": [[1, -1], [2, 2]],
        "mean": [[2, -3], [2, 2]],
        "max": [[3, -1], [2, 2]],
        "last": [[3, -5], [2, 2]],
    }
    for kind, vectors in expected.items():
        assert pool(kind, hidden, mask).tolist() == vectors
