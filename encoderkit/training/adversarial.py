"""Adversarial training of text classifiers by the fast gradient method (Miyato et al. 2017, section 3)."""

from collections.abc import Generator

import torch
from torch import Tensor, nn

from encoderkit.errors import UsageError
from encoderkit.learner import Learner
from encoderkit.models.inputs import Inputs
from encoderkit.training.sharding import whole


def passes(learner: Learner, inputs: Inputs, strength: float) -> Generator[bool]:
    """Yield once for each forward and backward pass over a batch: False for the plain one, True for the adversarial one.

    In the second, each text's word embeddings are moved by `strength` standard deviations of the embeddings along the
    gradient of its loss in the first (equation 5, with the deviation in place of normalised embeddings). That gradient is
    scaled to length 1 text by text, so the other texts of a batch are of no account. There is none with a strength of 0.
    """
    if not strength:
        yield False
        return
    table = learner.encoder.tokens
    seen: list[Tensor] = []

    def watch(module: nn.Module, given: tuple[Tensor], found: Tensor) -> Tensor:
        if given[0] is not inputs.ids:  # of a decoder, which has the same embeddings
            return found
        if not found.requires_grad:  # of frozen embeddings
            found.requires_grad_()
        found.retain_grad()
        seen.append(found)
        return found

    hook = table.register_forward_hook(watch)
    try:
        yield False
    finally:
        hook.remove()
    if not seen:  # of vectors with n-grams, which are sums over more tables
        message = "the vectors of this encoder are not those of its word embeddings alone, which are what it moves"
        raise UsageError(message, where="training.adversarial", fix="--set training.adversarial=null")
    length = strength * float(whole(table.weight.detach()).std())
    moves = iter([_move(one.grad, inputs.documents, length) for one in seen])

    def move(module: nn.Module, given: tuple[Tensor], found: Tensor) -> Tensor:
        return found + next(moves) if given[0] is inputs.ids else found

    hook = table.register_forward_hook(move)
    try:
        yield True
    finally:
        hook.remove()


def _move(gradient: Tensor | None, documents: Tensor, length: float) -> Tensor | float:
    """(B, T, E) gradients, scaled so that those of the tokens of each text have this length together."""
    if gradient is None:  # the loss does not depend on it
        return 0.0
    squares = gradient.float().square().sum(-1)  # (B, T)
    sums = squares.new_zeros(len(documents), int(documents.max()) + 1).scatter_add(1, documents, squares)
    norms = sums.gather(1, documents).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return gradient / norms[:, :, None] * length  # in this order: where there is no gradient, length / norm would be infinite
