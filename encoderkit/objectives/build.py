"""Which module each objective of a recipe is."""

from encoderkit.objectives.config import MaskedConfig
from encoderkit.objectives.masked import Masked

OBJECTIVES = {MaskedConfig: Masked}
