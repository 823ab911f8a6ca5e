"""Which module each task of a recipe is."""

from typing import Any

from encoderkit.tasks.choice import Choice
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import (
    ChoiceConfig,
    ClassifyConfig,
    GenerateConfig,
    RegressConfig,
    RerankConfig,
    SimilarityConfig,
    SpanConfig,
    TagConfig,
)
from encoderkit.tasks.generate import Generate
from encoderkit.tasks.regress import Regress
from encoderkit.tasks.rerank import Rerank
from encoderkit.tasks.similarity import Similarity
from encoderkit.tasks.span import Span
from encoderkit.tasks.tag import Tag

TASKS: dict[type[Any], type[Any]] = {
    ClassifyConfig: Classify,
    RegressConfig: Regress,
    SimilarityConfig: Similarity,
    RerankConfig: Rerank,
    ChoiceConfig: Choice,
    SpanConfig: Span,
    GenerateConfig: Generate,
    TagConfig: Tag,
}
