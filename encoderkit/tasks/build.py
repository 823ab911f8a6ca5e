"""Which module each task of a recipe is."""

from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig

TASKS = {ClassifyConfig: Classify}
