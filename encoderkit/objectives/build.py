"""Which module each objective of a recipe is."""

from typing import Any

from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig, MaskedConfig, PermutedConfig
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.permuted import Permuted

OBJECTIVES: dict[type[Any], type[Any]] = {MaskedConfig: Masked, CausalConfig: Causal, PermutedConfig: Permuted}
