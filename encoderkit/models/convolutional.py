"""Convolutional encoders: residual blocks over the tokens, dilated or gated. Padding is zeroed before each window.

From left to right, a window ends with its token, as in Dauphin et al. 2017 and in WaveNet (van den Oord et al. 2016).
"""

import torch
from torch import Tensor, nn

from encoderkit.models.config import CnnConfig
from encoderkit.models.dropout import Dropout
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import initialise


def _margin(config: CnnConfig, step: int) -> tuple[nn.Module, int]:
    """The zeros that give each token a window: all of them before the text, or half of them on either side (by the layer)."""
    more = (config.kernel - 1) * step
    return (nn.ZeroPad1d((more, 0)), 0) if config.direction == "left_to_right" else (nn.Identity(), more // 2)


class Block(nn.Module):
    """norm, convolution, GELU or a gated linear unit, added to what came in: (B, T, D) -> (B, T, D).

    Dilated, after Strubell et al. 2017 (ID-CNN), block i skips 2^i - 1 tokens between those it sees, so the view grows
    exponentially with depth. Gated it is after Dauphin et al. 2017.
    """

    def __init__(self, config: CnnConfig, index: int) -> None:
        super().__init__()
        gated = config.style == "gated"
        self.number, step = 1 + index, _step(config, index)
        self.norm = nn.LayerNorm(config.dim)
        self.margin, sides = _margin(config, step)
        self.convolution = nn.Conv1d(config.dim, (1 + gated) * config.dim, config.kernel, dilation=step, padding=sides)
        self.activation = nn.GLU() if gated else nn.GELU()
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, seeds: Tensor | None) -> Tensor:
        """`mask` is (B, T, 1), one for real tokens; `seeds` (B, T) those of all layers."""
        seen = (self.norm(x) * mask).transpose(1, 2)  # (B, D, T)
        return x + self.dropout(self.activation(self.convolution(self.margin(seen)).transpose(1, 2)), seeds, self.number)


def _step(config: CnnConfig, index: int) -> int:
    """How far what a block sees is apart."""
    return 2**index if config.style == "dilated" else 1


class Convolutional(nn.Module):
    """Word embeddings and a stack of residual convolutions; vectors of padding are zero. (B, T) -> (B, T, D).

    A row holds one document.
    """

    packs = False
    max_length = None

    def __init__(self, config: CnnConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim, width = config.dim, config.embedding_dim or config.dim
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.embedding_projection = nn.Linear(width, config.dim) if width != config.dim else nn.Identity()
        self.embedding_dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.final_norm = nn.LayerNorm(config.dim)
        # What a vector has seen of the tokens before its own, if it reads from left to right.
        self._reach = sum((config.kernel - 1) * _step(config, i) for i in range(config.layers))
        initialise(self)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to their vectors, (B, T, D)."""
        x = self.embedding_dropout(self.tokens(inputs.ids), inputs.seeds)
        x = self.embedding_projection(x).to(x.dtype)  # as in Transformer
        mask = inputs.mask[:, :, None].to(x.dtype)  # (B, T, 1)
        for layer in self.layers:
            x = layer(x, mask, inputs.seeds)
        return self.final_norm(x) * mask

    def read_on(self, ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, t) tokens that go on from those that `state` has read, to (B, t, D), and the state after them.

        The state is the tokens that a window can still see: computing those again is cheap. One text a row, from left to
        right, no padding; the first tokens have the state None.
        """
        seen = ids if state is None else torch.cat((state, ids), dim=1)
        return self(Inputs.of(seen))[:, -ids.shape[1] :], seen[:, max(0, seen.shape[1] - self._reach) :]
