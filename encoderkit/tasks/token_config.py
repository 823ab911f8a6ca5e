"""The tasks about places in a text, which `tasks/config.py` has among the others. No torch here."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from encoderkit.tasks.rows import RowsConfig, differ
from encoderkit.units import Share


class TagConfig(RowsConfig):
    """A tag for each token, or labelled spans of a text: entities, parts of speech."""

    kind: Literal["tag"] = "tag"
    tokens: str | None = None
    """The column of the tokens, a list; tokens if there is no text. In .conll files it is the first column; all are 1, 2 ..."""
    tags: str | None = None
    """The column of their tags, a list as long; tags if there is no text. Of .conll files tags is the last column."""
    text: str | None = None
    """The column of a text, in place of tokens and tags."""
    spans: str | None = None
    """The column of the text's entities, by characters: a list of [start, end, label], or of objects with these names;
    entities if it is not given."""
    scheme: Literal["auto", "bio", "bioes", "plain"] = "auto"
    """What the model gives: entities as BIO or BIOES, whatever scheme the file has, or plain tags. auto: that of the file."""
    head: Literal["softmax", "crf"] = "softmax"
    """Each tag on its own, or all together by a CRF; either way only legal sequences are given."""
    overlap: Annotated[Share, Field(lt=1)] = 0.25
    """Of a window that the next one reads again, where a row is longer than data.length."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the last layer."""

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
    def txt(self) -> Literal["line", "conll"]:
        """A token a line, unless there is a text."""
        return "line" if self.text else "conll"
