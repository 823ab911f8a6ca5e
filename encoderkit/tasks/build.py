"""Which module each task of a recipe is."""

from typing import Any

from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig, GenerateConfig
from encoderkit.tasks.generate import Generate

TASKS: dict[type[Any], type[Any]] = {ClassifyConfig: Classify, GenerateConfig: Generate}
