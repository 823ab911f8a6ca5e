"""How a text, or a pair of texts, is laid out between special tokens, as a tokenizer's own files say.

The tokenizers trained here put [CLS] A [SEP] B [SEP]; XLNet's put A [SEP] B [SEP] [CLS] with [CLS] in a segment of its own, and
RoBERTa's two [SEP] between the texts. A model must read texts as its tokenizer lays them out, here and in transformers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from encoderkit.text.special import SpecialIds


class Part(NamedTuple):
    """A special token, or a place for the next text."""

    id: int | None
    """Of the special token; None for a text."""
    segment: int


class Template(NamedTuple):
    """The layout of one text, and of a pair."""

    single: tuple[Part, ...]
    pair: tuple[Part, ...]

    def of(self, texts: int) -> tuple[Part, ...]:
        """The layout of one or two texts."""
        return self.single if texts == 1 else self.pair

    @property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens before a single text and after it."""
        ids = [part.id for part in self.single]
        place = ids.index(None)
        return [i for i in ids[:place] if i is not None], [i for i in ids[place:] if i is not None]


def template_of(description: Mapping[str, Any], special: SpecialIds) -> Template:
    """The layout that the post-processor of a tokenizer.json has; [CLS] A [SEP] B [SEP] where it has none that says so."""
    a, b = Part(None, 0), Part(None, 1)
    cls, sep = Part(special.cls, 0), Part(special.sep, 0)
    plain = Template((cls, a, sep), (cls, a, sep, b, Part(special.sep, 1)))
    if special.cls == special.sep == special.pad:  # GPT-2: a last token that is that of padding would count as padding
        plain = Template((cls, a), (cls, a, sep, Part(None, 0)))
    step = _deciding(description.get("post_processor"))
    match step.get("type"):
        case "TemplateProcessing":
            found = Template(_parts(step, "single"), _parts(step, "pair"))
            complete = [[part.id for part in side].count(None) for side in found] == [1, 2]
            return found if complete and len(found.single) > 1 else plain
        case "RobertaProcessing":
            return Template((cls, a, sep), (cls, a, sep, sep, a, sep))
        case _:
            return plain


def _deciding(step: Any) -> Mapping[str, Any]:
    """The step of a post-processor that puts special tokens."""
    steps = step.get("processors", [step]) if isinstance(step, dict) else []
    kinds = ("TemplateProcessing", "RobertaProcessing", "BertProcessing")
    return next((one for one in steps if isinstance(one, dict) and one.get("type") in kinds), {})


def _parts(step: Mapping[str, Any], name: str) -> tuple[Part, ...]:
    parts = []
    for entry in step.get(name) or []:
        if "Sequence" in entry:
            parts.append(Part(None, entry["Sequence"]["type_id"]))
        else:
            token = entry["SpecialToken"]
            parts += [Part(i, token["type_id"]) for i in step["special_tokens"][token["id"]]["ids"]]
    return tuple(parts)
