"""The tasks about places in a text, which `tasks/config.py` has among the others. No torch here."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from encoderkit.data.config import Column
from encoderkit.tasks.rows import ClassWeights, RowsConfig, differ, one_loss
from encoderkit.units import Overlap


class TagConfig(RowsConfig):
    """A tag for each token, or labelled spans of a text: entities, parts of speech."""

    kind: Literal["tag"] = "tag"
    tokens: Column | None = None
    """The column of the tokens, a list or a text with spaces between them; tokens if there is no text. In .conll files it is the
    first column; all are 1, 2 ..."""
    tags: Column | None = None
    """The column of their tags, as many; tags if there is no text. Of .conll files tags is the last column."""
    text: Column | None = None
    """The column of a text, in place of tokens and tags."""
    spans: Column | None = None
    """The column of the text's entities, by characters: a list of [start, end, label], or of objects with these names;
    entities if it is not given."""
    scheme: Literal["auto", "bio", "bioes", "plain"] = "auto"
    """What the model gives: entities as BIO or BIOES, whatever scheme the file has, or plain tags. auto: that of the file
    (of BMES and BILOU BIOES, which says the same)."""
    head: Literal["softmax", "crf"] = "softmax"
    """Each tag on its own, or all together by a CRF; either way only legal sequences are given."""
    legal: bool = True
    """Only sequences of tags that the scheme allows are given; false for models of other programs, which may begin with an I."""
    overlap: Overlap = "25%"
    """What neighbouring windows share, where a row is longer than data.length: tokens (32), or a share of a window (25%)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the last layer."""
    class_weights: ClassWeights = None
    """With softmax the weight of each tag in the loss, as {O: 0.5}, of others 1; balanced: inversely to its frequency."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """With softmax the share of each target spread over all tags (Szegedy et al. 2016)."""
    focal: float = Field(default=0.0, ge=0)
    """With softmax the focal loss, see `classify`: tags that are easy, as most O are, count for little."""
    rdrop: float = Field(default=0.0, ge=0)
    """With softmax R-Drop, see `classify`: over the tags of each token."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return ({"tokens": "tokens", "tags": "tags"} if given.get("text") is None else {"spans": "entities"}) | given

    @model_validator(mode="after")
    def _fits(self) -> "TagConfig":
        named = [self.tokens, self.tags], [self.text, self.spans]
        if None in named[self.text is not None] or any(named[self.text is None]):
            raise ValueError("give tokens and tags, or text and spans")
        if self.text and self.scheme == "plain":
            raise ValueError("spans are entities, whose scheme is bio or bioes")
        if self.head == "crf" and not self.legal:
            raise ValueError("a CRF learns which tags follow one another: legal: true")
        tricks = ("class_weights", "label_smoothing", "focal", "rdrop")
        if self.head == "crf" and (name := next((name for name in tricks if getattr(self, name)), None)):
            raise ValueError(f"a CRF learns all tags of a row as one, and {name} is of each on its own; set head: softmax")
        one_loss(self.focal, self.label_smoothing)
        differ(self.all_columns, "what is tagged and the tags")
        return self

    @property
    def columns(self) -> list[str]:
        """The text, or the tokens."""
        return [self.text or self.tokens or ""]

    @property
    def all_columns(self) -> list[str]:
        """The tags or spans too."""
        return [*self.columns, self.spans or self.tags or ""]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of entities, of plain tags, or of both where only the file tells which they are."""
        entities, plain = ("f1", "precision", "recall"), ("accuracy", "macro_f1")
        if self.scheme == "plain":
            return ("loss", *plain)
        return ("loss", *entities, *(plain if self.scheme == "auto" and self.text is None else ()))

    @property
    def txt(self) -> Literal["line", "conll"]:
        """A token a line, unless there is a text."""
        return "line" if self.text else "conll"

    def cramped(self, length: int) -> str | None:
        """A window must go on by a token beyond what it shares with the one before; two tokens are special."""
        return _cramped(length, 3, "3", self.overlap)


class SpanConfig(RowsConfig):
    """An answer as it stands in a passage: where it begins and ends."""

    kind: Literal["span"] = "span"
    question: Column = "question"
    """The column of the question."""
    context: Column = "context"
    """The column of the passage."""
    answers: Column = "answers"
    """The column of the answers, each {text, answer_start} or the text alone: a list, or lists of texts and of starts."""
    question_length: PositiveInt = 64
    """The most tokens of a question; longer ones are cut, and counted."""
    overlap: Overlap = 32
    """What neighbouring windows of a long passage share, tokens (32) or a share of a window (25%): an answer as long as this
    is whole in one of them."""
    answer_length: PositiveInt = 30
    """The most tokens of an answer that is given."""
    unanswerable: bool = False
    """Questions may have no answer (SQuAD 2.0): none is given where its score is ahead by a threshold that dev has set."""
    normalise: Literal["auto", "english", "chinese"] = "auto"
    """What counts as equal: english as SQuAD's script has it, chinese as that of CMRC 2018; auto: by the training answers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the last layer."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop, see `classify`: over where in the passage an answer begins, and where it ends."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "SpanConfig":
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

    def read(self, length: int) -> tuple[int, Literal["row", "question"]]:
        """A question is what may be cut, of which the task tells itself; the passage is read in windows."""
        return self.question_length, "question"

    @property
    def yardstick(self) -> tuple[str, ...]:
        """What counts as equal."""
        return () if self.normalise == "auto" else (self.normalise,)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of SQuAD's script."""
        return ("loss", "exact_match", "f1")

    @property
    def optional_columns(self) -> list[str]:
        """The name of a question, for predictions and messages."""
        return ["id"]

    @property
    def repeated(self) -> list[str]:
        """The number of a question."""
        return ["id"]

    @property
    def together(self) -> list[str]:
        """The questions about a passage."""
        return [self.context]

    def cramped(self, length: int) -> str | None:
        """A window must go on by a token beyond what it shares with the one before; four tokens may be special."""
        return _cramped(length, self.question_length + 5, "task.question_length + 5", self.overlap)


def _cramped(length: int, least: int, what: str, overlap: str | int) -> str | None:
    """Why windows that share `overlap` do not fit into `length` tokens, of which `least` are needed besides."""
    if isinstance(overlap, int) and overlap:
        least, what = least + overlap, f"{what} + task.overlap"
    return f"data.length ({length}) is less than {what} = {least}" if length < least else None
