"""Our recurrent stacks against torch's own multi-layer bidirectional ones on packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from encoderkit.models.build import build_encoder
from encoderkit.models.config import GruConfig, LstmConfig, RecurrentConfig, RnnConfig
from encoderkit.models.inputs import Inputs

LENGTHS = torch.tensor([11, 3, 1, 7])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("kind", "theirs"), [(RnnConfig, nn.RNN), (LstmConfig, nn.LSTM), (GruConfig, nn.GRU)])
def test_equals_torch_on_packed_sequences(kind: type[RecurrentConfig], theirs: type[nn.RNNBase], directions: int) -> None:
    torch.manual_seed(0)
    size, width, layers = 6, 5, 3
    encoder = build_encoder(kind(dim=size * directions, embedding_dim=width, layers=layers, directions=directions), 30, 0)  # pyright: ignore
    reference = theirs(width, size, layers, batch_first=True, bidirectional=directions == 2)  # pyright: ignore
    for i, layer in enumerate(encoder.layers):
        for part, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse"))[:directions]:
            for name, parameter in part.named_parameters():
                ours_to_theirs = name.replace("_l0", f"_l{i}{suffix}")
                parameter.data.copy_(reference.get_parameter(ours_to_theirs))
    mask = torch.arange(11) < LENGTHS[:, None]
    ids = torch.randint(5, 30, mask.shape) * mask
    packed = pack_padded_sequence(encoder.tokens(ids), LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    torch.testing.assert_close(encoder.eval()(Inputs.of(ids, mask)), expected, atol=1e-6, rtol=1e-5)
