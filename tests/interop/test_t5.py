"""Parity with transformers' T5 at 1e-5: the encoder, the logits and the loss of both, and what they write."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.interop.families import obstacle
from encoderkit.interop.hf import export, from_hf, to_hf
from encoderkit.interop.layout import Head, SpecialIds
from encoderkit.interop.t5 import EncoderDecoderConfig
from encoderkit.models.build import build_encoder
from encoderkit.models.config import BertConfig, DecoderConfig, LstmConfig, T5Config
from encoderkit.models.decoder import Decoder, Writing
from encoderkit.models.decoding import beam_search, greedy
from encoderkit.models.inputs import Inputs

transformers = pytest.importorskip("transformers")

VOCABULARY = 61
IDS = SpecialIds(pad=0, cls=2, sep=3)
CONFIGS = {
    "v1.1": EncoderDecoderConfig(encoder=T5Config(dim=24, layers=2, heads=3, hidden=31), decoder=DecoderConfig(head="own")),
    "v1.0": EncoderDecoderConfig(
        encoder=T5Config(dim=20, layers=3, heads=2, head_dim=7, mlp="plain", activation="relu"),
        decoder=DecoderConfig(layers=2, start="pad"),
    ),
    "other": EncoderDecoderConfig(
        encoder=T5Config(dim=16, layers=3, heads=5, head_dim=4, activation="gelu", buckets=8, bucket_distance=20, norm_eps=1e-5),
        decoder=DecoderConfig(layers=1, head="own"),
    ),
}
every = pytest.mark.parametrize("name", CONFIGS)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Ours(nn.Module):
    """An encoder and a decoder, named as a learner names them."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder: Any = build_encoder(config.encoder, VOCABULARY, IDS.pad)
        self.head = Decoder(config.decoder, config.encoder, VOCABULARY, IDS.pad, self.encoder.tokens.embedding_dim)
        for name, parameter in self.named_parameters():  # as unlike fresh weights as can be: no zeros, no ones
            nn.init.normal_(parameter, std=1.5 if "distance_bias" in name else 0.25)
        self.eval()

    def forward(self, source: Inputs, target: Tensor) -> Tensor:
        return self.head(target, torch.ones_like(target), source.documents, self.encoder(source), self.encoder.tokens)


def batch(left: bool = False) -> tuple[Inputs, dict[str, Tensor]]:
    """Sources longer than the farthest bucket, of several lengths, padded on either side, for us and for transformers."""
    lengths = torch.tensor([150, 1, 40])
    mask = torch.arange(150) < lengths[:, None]
    mask = mask.flip(1) if left else mask
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Inputs(ids, mask.long(), positions), {"input_ids": ids, "attention_mask": mask.long()}


def load(folder: Path, config: Any, head: Head, tensors: dict[str, Tensor]) -> Any:
    exported = export(config, head, tensors, {}, VOCABULARY, IDS)
    for name, data in exported.files.items():
        (folder / name).write_bytes(data)
    assert exported.auto_class is not None
    model, report = getattr(transformers, exported.auto_class).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.mark.parametrize("left", [False, True])
@every
def test_the_encoder_alone(name: str, left: bool, tmp_path: Path) -> None:
    ours = Ours(CONFIGS[name])
    tensors = {label: tensor for label, tensor in ours.state_dict().items() if label.startswith("encoder.")}
    theirs = load(tmp_path, CONFIGS[name].encoder, Head("none"), tensors)
    inputs, arguments = batch(left)
    difference = ours.encoder(inputs) - theirs(**arguments).last_hidden_state
    assert difference[inputs.mask].abs().max() < 1e-5


@every
def test_logits_and_loss(name: str, tmp_path: Path) -> None:
    ours = Ours(CONFIGS[name])
    theirs = load(tmp_path, CONFIGS[name], Head("seq2seq"), ours.state_dict())
    source, arguments = batch()
    labels = torch.randint(5, VOCABULARY, (3, 40), generator=torch.Generator().manual_seed(4))
    found = theirs(**arguments, labels=labels)
    start = IDS.pad if CONFIGS[name].decoder.start == "pad" else IDS.cls
    logits = ours(source, torch.cat((torch.full((3, 1), start), labels[:, :-1]), 1))
    assert (logits - found.logits).abs().max() < 1e-5 * max(1, float(logits.abs().max()))
    torch.testing.assert_close(cross_entropy(logits.flatten(0, 1), labels.flatten()), found.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@every
def test_what_is_written(name: str, penalty: float, tmp_path: Path) -> None:
    ours = Ours(CONFIGS[name])
    theirs = load(tmp_path, CONFIGS[name], Head("seq2seq"), ours.state_dict())
    source, arguments = batch()
    start = torch.full((3, 1), IDS.pad if CONFIGS[name].decoder.start == "pad" else IDS.cls)

    def writing() -> Writing:
        return Writing(ours.head, ours.encoder(source), source.mask, ours.encoder.tokens)

    end = greedy(writing(), start, -1, 8)[0][-1]  # a token that is written, so that texts of several lengths end

    def theirs_written(beams: int) -> list[list[int]]:
        settings = {"num_beams": beams, "length_penalty": penalty, "early_stopping": False}
        found = theirs.generate(**arguments, max_new_tokens=14, do_sample=False, eos_token_id=end, **settings).tolist()
        return [row[1 : row.index(end)] if end in row else row[1:] for row in found]

    def filled(texts: list[list[int]]) -> list[list[int]]:
        return [(ids + [IDS.pad] * 14)[:14] for ids in texts]  # as transformers does, where one is longer than another

    ended = greedy(writing(), start, end, 14)
    assert min(map(len, ended)) < 8
    assert filled(ended) == filled(theirs_written(1))
    for beams in (2, 5):
        found = beam_search(writing(), start, end, 14, beams, penalty)
        assert filled([text.ids for text in found]) == filled(theirs_written(beams))


@every
def test_from_hf_undoes_to_hf(name: str) -> None:
    config, ours = CONFIGS[name], Ours(CONFIGS[name]).state_dict()
    back = from_hf(config, "seq2seq", to_hf(config, "seq2seq", ours, IDS.pad), IDS.pad)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[label], tensor) for label, tensor in ours.items())


@pytest.mark.parametrize(("projection", "tied"), [("relu", True), ("gated-gelu", False)])
def test_a_model_of_transformers_is_read(projection: str, tied: bool) -> None:
    settings = {"vocab_size": VOCABULARY, "d_model": 20, "d_kv": 6, "d_ff": 30, "num_layers": 2, "num_heads": 3}
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            **settings, feed_forward_proj=projection, tie_word_embeddings=tied, decoder_start_token_id=0, initializer_factor=0.5
        )
    ).eval()
    mlp = {"mlp": "gated", "activation": "gelu_tanh"} if projection == "gated-gelu" else {"mlp": "plain", "activation": "relu"}
    encoder = T5Config.model_validate({"dim": 20, "layers": 2, "heads": 3, "head_dim": 6, "hidden": 30, **mlp})
    config = EncoderDecoderConfig(encoder=encoder, decoder=DecoderConfig(head="tied" if tied else "own", start="pad"))
    ours = Ours(config)
    ours.load_state_dict(from_hf(config, "seq2seq", theirs.state_dict(), pad=0))
    source, arguments = batch()
    target = torch.randint(5, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(5))
    found = theirs(**arguments, decoder_input_ids=target).logits
    assert (ours(source, target) - found).abs().max() < 1e-5 * max(1, float(found.abs().max()))


@pytest.mark.parametrize(
    ("config", "kind", "reason"),
    [
        (T5Config(norm="layer", bias=True), "none", "t5 cannot have norm: layer, bias: True"),
        (T5Config(), "classify", "no t5 with a head of kind classify"),
        (EncoderDecoderConfig(encoder=LstmConfig(), decoder=DecoderConfig()), "seq2seq", "an encoder of kind: lstm"),
        (EncoderDecoderConfig(encoder=T5Config(), decoder=DecoderConfig(heads=2)), "seq2seq", "decoder.heads: 2"),
        (EncoderDecoderConfig(encoder=T5Config(), decoder=DecoderConfig(kind="plain")), "seq2seq", "decoder.kind: plain"),
        (BertConfig(norm="rms"), "none", "bert cannot have norm: rms"),
    ],
)
def test_what_transformers_does_not_have_is_said(config: Any, kind: Any, reason: str) -> None:
    found = obstacle(config, Head(kind))
    assert found is not None and reason in found
