"""Which module each objective of a recipe is."""

from typing import Any

from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig, ContrastiveConfig, MaskedConfig, SpansConfig
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.spans import Spans

OBJECTIVES: dict[type[Any], type[Any]] = {
    MaskedConfig: Masked,
    CausalConfig: Causal,
    SpansConfig: Spans,
    ContrastiveConfig: Contrastive,
}
