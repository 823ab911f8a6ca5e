"""Which module each task of a recipe is."""

from typing import Any

from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig, RegressConfig, SimilarityConfig
from encoderkit.tasks.regress import Regress
from encoderkit.tasks.similarity import Similarity

TASKS: dict[type[Any], type[Any]] = {
    ClassifyConfig: Classify,
    RegressConfig: Regress,
    SimilarityConfig: Similarity,
}
