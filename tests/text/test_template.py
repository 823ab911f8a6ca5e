"""The layout of texts and pairs is that of the tokenizers library, whatever the tokenizer.json says."""

import json
from typing import Any

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, processors

from encoderkit.errors import DataError
from encoderkit.inference import vocabulary_of
from encoderkit.tasks.texts import assemble
from encoderkit.text.tokenizers import Tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c")
CLS, SEP = ("[CLS]", 2), ("[SEP]", 3)
XLNET = {"single": "$A:0 [SEP]:0 [CLS]:2", "pair": "$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2", "special_tokens": [CLS, SEP]}
T5 = {"single": "$A [SEP]", "pair": "$A [SEP] $B [SEP]", "special_tokens": [SEP]}
PROCESSORS: dict[str, Any] = {
    "bert": processors.BertProcessing(SEP, CLS),
    "roberta": processors.RobertaProcessing(SEP, CLS, trim_offsets=False),
    "xlnet": processors.TemplateProcessing(**XLNET),
    "t5": processors.TemplateProcessing(**T5),
    "sequence": processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(**XLNET)]),
}


def tokenizer(processor: Any) -> tuple[Tokenizer, Engine]:
    engine = Engine(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    if processor is not None:
        engine.post_processor = processor
    return Tokenizer({"tokenizer.json": engine.to_str().encode()}), engine


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("texts", [["a b c"], [""], ["a b", "c a b c"], ["a", ""]])
def test_texts_are_laid_out_as_the_library_lays_them_out(name: str, texts: list[str]) -> None:
    ours, engine = tokenizer(PROCESSORS[name])
    expected = engine.encode(*texts)
    [found] = assemble([texts], ours, 32)
    assert found.ids.tolist() == expected.ids
    assert (found.segments.tolist() if found.segments is not None else [0] * len(expected.ids)) == expected.type_ids
    assert found.special == sum(expected.special_tokens_mask)
    short = len(expected.ids) - 1
    if short > found.special:
        [cut] = assemble([texts], ours, short)
        assert len(cut.ids) == short and cut.cut == 1
        assert [i for i in cut.ids.tolist() if i < 5] == [i for i in expected.ids if i < 5]


def test_without_a_word_on_it_texts_stand_between_cls_and_sep() -> None:
    for processor in (None, processors.ByteLevel(), processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])):
        ours, _ = tokenizer(processor)
        assert [row.ids.tolist() for row in assemble([["a", "b"]], ours, 9)] == [[2, 5, 3, 6, 3]]
        assert ours.template.around == ([2], [3])


def test_where_cls_stands() -> None:
    """Where one token is both [CLS] and [SEP], as in GPT-2, it is the first."""
    names = {"cls_token": "[SEP]", "sep_token": "[SEP]"}
    for name, summary in (("bert", "first"), ("xlnet", "last"), ("roberta", "first"), ("t5", "first")):
        assert vocabulary_of(tokenizer(PROCESSORS[name])[0]).summary == summary
    _, engine = tokenizer(None)
    files = {"tokenizer.json": engine.to_str().encode(), "tokenizer_config.json": json.dumps(names).encode()}
    assert vocabulary_of(Tokenizer(files)).summary == "first"


def test_a_broken_one_is_data_that_cannot_be_used() -> None:
    _, engine = tokenizer(PROCESSORS["xlnet"])
    description = json.loads(engine.to_str())
    description["post_processor"]["special_tokens"] = {}
    with pytest.raises(DataError, match="post_processor"):
        Tokenizer({"tokenizer.json": json.dumps(description).encode()})
