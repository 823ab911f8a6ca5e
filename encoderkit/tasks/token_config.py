"""The tasks about places in a text, which `tasks/config.py` has among the others. No torch here."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from encoderkit.tasks.rows import RowsConfig, differ


class SpanConfig(RowsConfig):
    """An answer as it stands in a passage: where it begins and ends."""

    kind: Literal["span"] = "span"
    question: str = "question"
    """The column of the question."""
    context: str = "context"
    """The column of the passage."""
    answers: str = "answers"
    """The column of the answers, each {text, answer_start} or the text alone: a list, or lists of texts and of starts."""
    question_length: PositiveInt = 64
    """The most tokens of a question; longer ones are cut, and counted."""
    overlap: int = Field(default=32, ge=0)
    """Tokens that neighbouring windows of a long passage share: an answer as long as this is whole in one of them."""
    answer_length: PositiveInt = 30
    """The most tokens of an answer that is given."""
    unanswerable: bool = False
    """Questions may have no answer (SQuAD 2.0): none is given where its score is ahead by a threshold that dev has set."""
    normalise: Literal["auto", "english", "chinese"] = "auto"
    """What counts as equal: english as SQuAD's script has it, chinese as that of CMRC 2018; auto: by the training answers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the last layer."""

    @model_validator(mode="after")
    def _columnsdiffer(self) -> "SpanConfig":
        differ(self.all_columns, "question, context and answers")
        return self

    @property
    def columns(self) -> list[str]:
        """The question and the passage."""
        return [self.question, self.context]

    @property
    def all_columns(self) -> list[str]:
        """The answers too."""
        return [*self.columns, self.answers]

    @property
    def optional_columns(self) -> list[str]:
        """The name of a question, for predictions and messages."""
        return ["id"]

    @property
    def together(self) -> list[str]:
        """The questions about a passage."""
        return [self.context]

    def cramped(self, length: int) -> str | None:
        """A window must go on by a token beyond what it shares with the one before; four tokens may be special."""
        least = self.question_length + self.overlap + 5
        if length < least:
            return f"data.length ({length}) is less than task.question_length + task.overlap + 5 = {least}"
        return None
