"""Which module each objective of a recipe is."""

from typing import Any

from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig, ContrastiveConfig, MaskedConfig
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.objectives.masked import Masked

OBJECTIVES: dict[type[Any], type[Any]] = {MaskedConfig: Masked, CausalConfig: Causal, ContrastiveConfig: Contrastive}
