"""Which module each objective of a recipe is."""

from typing import Any

from encoderkit.objectives.causal import Causal
from encoderkit.objectives.cbow import Cbow
from encoderkit.objectives.config import (
    CausalConfig,
    CbowConfig,
    ContrastiveConfig,
    GloveConfig,
    MaskedConfig,
    PermutedConfig,
    ReplacedConfig,
    SkipGramConfig,
    SpansConfig,
)
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.objectives.glove import Glove
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.permuted import Permuted
from encoderkit.objectives.replaced import Replaced
from encoderkit.objectives.skipgram import SkipGram
from encoderkit.objectives.spans import Spans

OBJECTIVES: dict[type[Any], type[Any]] = {
    MaskedConfig: Masked,
    CausalConfig: Causal,
    PermutedConfig: Permuted,
    SpansConfig: Spans,
    ContrastiveConfig: Contrastive,
    ReplacedConfig: Replaced,
    SkipGramConfig: SkipGram,
    CbowConfig: Cbow,
    GloveConfig: Glove,
}
