"""Recurrent encoders: a stack of RNN, LSTM or GRU layers, in one direction or two.

A layer that reads from right to left must begin at a document's last token, not in its padding. Each document is
therefore reversed in place before such a layer and back after it; what remains is two plain left-to-right layers, for
which padding comes last and cannot matter. Unlike packed sequences this needs no lengths on the CPU and no sorting.

Two directions are joint, each layer reading both directions of the one below, or apart: two stacks that never meet (Peters
et al. 2018, "Deep contextualized word representations", section 3.1).
"""

from typing import Any

import torch
from torch import Tensor, nn

from encoderkit.models.config import GruConfig, LstmConfig, RecurrentConfig, RnnConfig
from encoderkit.models.dropout import Dropout
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import initialise

CELLS: dict[type[RecurrentConfig], type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]] = {
    RnnConfig: nn.RNN,
    LstmConfig: nn.LSTM,
    GruConfig: nn.GRU,
}


def reversal(mask: Tensor) -> Tensor:
    """(B, T) bool -> (B, T) int64: for each place the one to read so that the real tokens are reversed; its own inverse."""
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, mask.sum(1, keepdim=True) - 1 - place, place)


class RecurrentLayer(nn.Module):
    """One layer, in one direction or two of half the width each: (B, T, E) -> (B, T, D)."""

    def __init__(self, config: RecurrentConfig, width: int, lanes: int) -> None:
        """`lanes`: 2 if each direction has an input of its own, side by side; 1 if both have the same."""
        super().__init__()
        cell, size, self.lanes = CELLS[type(config)], config.dim // config.directions, lanes
        self.forwards = cell(width // lanes, size, batch_first=True)
        self.backwards = cell(width // lanes, size, batch_first=True) if config.directions == 2 else None

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """`order` is from `reversal`."""
        parts = x.chunk(self.lanes, dim=-1)
        left, _ = _run(self.forwards, parts[0])
        if self.backwards is None:
            return left
        right, _ = _run(self.backwards, _read(parts[-1], order))
        return torch.cat((left, _read(right, order)), dim=-1)


def _run(cell: nn.RNNBase, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """A cell over (B, T, E), on a GPU in fp32: autocast to bf16 would give cuDNN's cells fp16, too small for gradients."""
    if not x.is_cuda:
        return cell(x, state)
    with torch.autocast("cuda", enabled=False):
        return cell(x.float(), state)


def _read(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order[:, :, None].expand_as(x))


class Recurrent(nn.Module):
    """Word embeddings and a stack of recurrent layers; vectors of padding are zero. (B, T) -> (B, T, D).

    A row holds one document. Weights start as torch's do, U(-1/sqrt(size), 1/sqrt(size)), except that an LSTM's forget gate
    starts open with a bias of 1 (Jozefowicz et al. 2015, section 3.3).
    """

    packs = False
    max_length = None

    def __init__(self, config: RecurrentConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim, width = config.dim, config.embedding_dim or config.dim
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self._lanes = 2 if config.stacks == "apart" else 1
        widths = [self._lanes * width] + [config.dim] * (config.layers - 1)
        self.layers = nn.ModuleList(RecurrentLayer(config, width, self._lanes) for width in widths)
        self.dropout = Dropout(config.dropout)
        initialise(self)
        for layer in self.layers.modules():
            if isinstance(layer, nn.LSTM):
                _open_forget_gate(layer)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to their vectors, (B, T, D)."""
        mask, order = inputs.mask[:, :, None], reversal(inputs.mask)
        x = self.tokens(inputs.ids).repeat(1, 1, self._lanes)  # each of two stacks begins with the embeddings
        for i, layer in enumerate(self.layers):
            x = layer(self.dropout(x, inputs.seeds, i), order)
        return x * mask.to(x.dtype)

    def read_on(self, ids: Tensor, state: list[Any] | None) -> tuple[Tensor, list[Any]]:
        """(B, t) tokens that go on from those that `state` has read, to their vectors, and the state after them.

        (B, t, D), or of two stacks the (B, t, D/2) of the one that reads from left to right. One text a row, no padding;
        the first tokens have the state None.
        """
        x, after = self.tokens(ids), []
        layer: Any
        for layer, before in zip(self.layers, state or [None] * len(self.layers), strict=True):
            x, left = _run(layer.forwards, x, before)
            after.append(left)
        return x, after


def _open_forget_gate(layer: nn.LSTM) -> None:
    size = layer.hidden_size
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):  # two biases are added: one and zero make one
            nn.init.constant_(parameter.data[size : 2 * size], 1.0 if name.startswith("bias_ih") else 0.0)
