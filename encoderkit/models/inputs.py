"""What an encoder reads."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from encoderkit.models.dropout import along, drawn, fold


class Inputs(NamedTuple):
    """Rows of tokens, each row holding one document or several packed one after another.

    Documents in a row are kept apart: attention stays within a document and positions restart, so that a row of
    three documents gives each the vectors it would have alone.
    """

    ids: Tensor
    """(B, T) int64."""
    documents: Tensor
    """(B, T) int64: 0 for padding, 1, 2, ... for the first, second, ... document of the row."""
    positions: Tensor
    """(B, T) int64: the place of a token in its document, from 0."""
    segments: Tensor | None = None
    """(B, T) int64: 0 and 1 for the first and second text of a pair; None where there is only one text."""
    texts: Tensor | None = None
    """(N, L) int64: where the tokens of each text stand in (B * T), -1 after its last; None where each row is a text."""

    seeds: Tensor | None = None
    """(B, T) int64: what dropout of each token goes by (`models.dropout`); None: by torch's generator, or there is none."""

    @property
    def mask(self) -> Tensor:
        """(B, T) bool: True for real tokens."""
        return self.documents > 0

    @staticmethod
    def of(ids: Tensor, mask: Tensor | None = None, segments: Tensor | None = None) -> "Inputs":
        """One document a row: `mask` (B, T) is True for real tokens, which come first; all are real without it."""
        documents = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids) * documents
        return Inputs(ids, documents, positions, segments)

    @staticmethod
    def laid(rows: Sequence[Any], width: int, fill: int, rngs: Sequence[np.random.Generator]) -> "Inputs":
        """Of rows with `ids`, `documents` and `positions`, filled up with the id `fill`; seeds are drawn from `rngs`, if any."""
        ids = pad([row.ids for row in rows], width, fill)
        documents, positions = (pad([getattr(row, name) for row in rows], width, 0) for name in ("documents", "positions"))
        return Inputs(ids, documents, positions).seeded(drawn(rngs))

    def order(self) -> list[np.ndarray]:
        """The numbers of the texts that stand in each row, from the first."""
        if self.texts is None:
            return list(np.arange(len(self.ids))[:, None])
        begins = self.texts[:, 0].numpy()
        rows = begins // self.ids.shape[1]
        return [own[np.argsort(begins[own])] for own in (np.flatnonzero(rows == row) for row in range(len(self.ids)))]

    def seeded(self, seeds: Tensor | None) -> "Inputs":
        """The same with (N,) seeds of its N texts, wherever these stand; None: as it is."""
        if seeds is None:
            return self
        if self.texts is None:
            return self._replace(seeds=along(seeds, self.ids.shape[1]))
        real, laid = self.texts >= 0, torch.zeros_like(self.ids)
        laid.view(-1)[self.texts[real]] = along(seeds, self.texts.shape[1])[real]
        return self._replace(seeds=laid)

    def again(self, number: int) -> "Inputs":
        """The same for pass 0, 1, ... over it, each with a dropout of its own."""
        return self if self.seeds is None or not number else self._replace(seeds=fold(self.seeds, -1 - number))

    def to(self, device: str) -> "Inputs":
        """The same rows on another device; on a GPU without seeds, which are the CPU's."""
        kept = self if device == "cpu" else self._replace(seeds=None)
        return Inputs(*(None if t is None else t.to(device, non_blocking=True) for t in kept))  # pyright: ignore[reportArgumentType]


def pad(rows: Sequence[np.ndarray], width: int, value: int) -> Tensor:
    """Rows of different lengths as one (B, width) int64 tensor, filled up with `value`."""
    out = np.full((len(rows), width), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)
