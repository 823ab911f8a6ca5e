"""Transformer-XL's positions against its equation, term by term and distance by distance."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from encoderkit.models.attention import Context, visible
from encoderkit.models.config import BertConfig, GptConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.relative import RelativeAttention, RelativePositions, sinusoids
from encoderkit.models.transformer import Transformer


def sinusoid(distance: int, dim: int) -> Tensor:
    angles = torch.tensor([distance / 10000 ** (2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)
    return torch.cat((angles.sin(), angles.cos()))


def scores(module: RelativePositions, query: Tensor, key: Tensor, distance: int, head: int) -> float:
    """Dai et al. 2019, section 3.3, the four terms, for one query, key and head, in float64."""
    heads, width = module.heads, len(query)
    weight = module.project.weight.double().view(heads, width, -1)[head]
    relative = weight @ sinusoid(distance, weight.shape[1])
    u, v = (bias.double().view(heads, width)[head] for bias in (module.content_bias, module.position_bias))
    return float(query @ key + query @ relative + u @ key + v @ relative) * module.scale


@torch.no_grad()
def test_scores_are_those_of_the_equation_for_keys_of_a_memory_too_and_for_queries_anywhere() -> None:
    torch.manual_seed(0)
    dim, heads, tokens, memory = 12, 3, 5, 4
    module = RelativePositions(dim, heads, 4, 0.5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    query, key = torch.randn(2, heads, tokens, 4), torch.randn(2, heads, memory + tokens, 4)
    table = sinusoids(memory + tokens, tokens, dim, query)
    places = torch.tensor([[3, 0, 3], [4, 2, 1]])
    asked, added = module(query, table, memory + tokens)
    found = asked @ key.mT / 2 + added
    some = query[torch.arange(2)[:, None], :, places].transpose(1, 2)  # (B, H, P, K)
    asked, added = module(some, table, memory + tokens, places)
    found_some = asked @ key.mT / 2 + added
    for b in range(2):
        for h in range(heads):
            for j in range(memory + tokens):
                for i in range(tokens):
                    expected = scores(module, query[b, h, i].double(), key[b, h, j].double(), memory + i - j, h)
                    assert abs(float(found[b, h, i, j]) - expected) < 1e-5
                    for slot in (places[b] == i).nonzero():
                        assert abs(float(found_some[b, h, slot, j]) - expected) < 1e-5


@pytest.mark.parametrize(("width", "scale"), [(4, "width"), (6, "none")])
@torch.no_grad()
def test_attention_is_a_softmax_of_those_scores_within_a_document(width: int, scale: Literal["width", "none"]) -> None:
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "head_dim": width, "attention_scale": scale}
    config = BertConfig.model_validate({"layers": 1, "position": "transformer_xl", "attention_dropout": 0, **sizes})
    attention = RelativeAttention(config)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, documents = torch.randn(1, 6, 8), torch.tensor([[1, 1, 1, 2, 2, 0]])
    query, key, value = (y.view(6, 2, width).double() for y in attention.qkv(x)[0].chunk(3, dim=-1))
    mixed = torch.zeros(6, 2, width, dtype=torch.float64)
    for i in range(6):
        mine = [j for j in range(6) if documents[0, j] == documents[0, i]]
        for h in range(2):
            found = torch.tensor([scores(attention.relative, query[i, h], key[j, h], i - j, h) for j in mine])
            mixed[i, h] = found.double().softmax(0) @ value[mine, h]
    expected = attention.out.double()(mixed.view(1, 6, 2 * width)).float()
    attention.out.float()
    torch.testing.assert_close(
        attention(x, Context(visible(documents), (sinusoids(6, 6, 8, x),))), expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_a_packed_row_may_be_longer_than_any_document() -> None:
    torch.manual_seed(0)
    config = BertConfig.model_validate({"dim": 8, "heads": 2, "layers": 2, "position": "transformer_xl", "max_length": 8})
    made = Transformer(config, 30, 0).eval()
    ids = torch.randint(1, 30, (1, 16))
    places = torch.arange(16)[None] % 8
    packed = made(Inputs(ids, 1 + torch.arange(16)[None] // 8, places))
    apart = made(Inputs.of(ids.view(2, 8)))
    torch.testing.assert_close(packed.view(2, 8, -1), apart, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_text_that_is_read_token_by_token_has_the_vectors_that_it_has_as_a_whole() -> None:
    torch.manual_seed(0)
    settings = {"dim": 12, "heads": 2, "layers": 3, "max_length": 9, "window": 4, "global_every": 2}
    config = GptConfig.model_validate({"position": "transformer_xl", **settings})
    encoder = Transformer(config, 30, 0).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    ids = torch.randint(5, 30, (2, 9))
    whole, state, parts = encoder(Inputs.of(ids)), None, []
    for first, end in ((0, 3), (3, 4), (4, 5), (5, 9)):
        hidden, state = encoder.read_on(ids[:, first:end], state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
