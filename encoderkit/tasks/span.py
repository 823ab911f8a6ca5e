"""Extractive question answering: where in a passage the answer begins and ends (Devlin et al. 2019, sections 4.2 and 4.3).

A question is read together with its passage, a long passage in windows that overlap, and every token has two scores: that
the answer begins with it, and that it ends there. The answer is the span with the highest sum of both over all windows.
A window without the answer points to [CLS]; where questions may have no answer, so does the model.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, shown
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import bootstrap_means, objects
from encoderkit.models.build import build_tagging_head
from encoderkit.models.config import EncoderConfig, reading
from encoderkit.models.decoding import NEVER
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import apart, token_seeds
from encoderkit.tasks import truth
from encoderkit.tasks.answers import Language, compared, is_chinese, locate, word_cutter
from encoderkit.tasks.config import SpanConfig
from encoderkit.tasks.losses import disagreement, in_passes, weights_of
from encoderkit.tasks.passages import Band, Example, Passage, bands, tell, threshold, trimmed
from encoderkit.tasks.task import Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import Tokens, lay, named, names_of, windows
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.units import overlap_tokens

MOST_ANSWERS = 20
"""That `--top-k` may ask for."""


class Answer(NamedTuple):
    """A part of a passage, or none of it."""

    text: str
    start: int
    end: int
    """`text` is the passage from `start` to `end`; "" from 0 to 0 for no answer."""
    score: float
    """Its probability among all spans (and no answer) whose scores are compared."""


class Span(EncoderTask):
    """Encoder, and two scores for each token of a passage."""

    config: SpanConfig
    threshold: Tensor
    chinese: Tensor

    def __init__(
        self, config: SpanConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str] = ()
    ) -> None:
        """`length`: the tokens that a question has at most with a window of its passage."""
        super().__init__(config, encoder, vocabulary, length, labels)
        self.head = build_tagging_head(encoder, 2, config.dropout)
        self.weights = weights_of("span", config.rdrop)
        self.monitor = "f1"
        self.baselines: tuple[Baseline, ...] = ("sentence", "silence") if config.unanswerable else ("sentence",)
        self.choices = MOST_ANSWERS
        self.fields = [*names_of(config.columns), "answer", "start", "end", "score", "truncated"]
        self.listed = ("answers",)
        # By how much no answer must be ahead of the best one to be given, and whether answers are compared as Chinese.
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("chinese", torch.tensor(config.normalise == "chinese"))

    def prepare(self, examples: Sequence[Example]) -> None:
        """Find out in which language answers are compared, unless the recipe says so."""
        if self.config.normalise == "auto":
            right = [text for example in examples if example.first == 0 for text in example.passage.right]
            self.chinese = torch.tensor(is_chinese(right), device=self.chinese.device)
        if self._language == "chinese":
            word_cutter()  # better missed before the training than after it

    @property
    def _language(self) -> Language:
        return "chinese" if self.chinese else "english"

    @property
    def yardstick(self) -> tuple[str, ...]:
        """What counts as equal."""
        return (self._language,)

    def texts(self, row: Row) -> list[str]:
        """The question and the passage; raises `DataError` for a passage without a character."""
        return truth.passage(row, self.config)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as windows; tells how many answers had to be looked for, are cut, or begin or end inside a token.

        Raises `DataError` with file, line and id for a row whose answers are not in its passage.
        """
        texts = [self.texts(row) for row in rows]
        questions = tokenizer.encode([question for question, _ in texts])
        contexts = {context: number for number, context in enumerate(dict.fromkeys(context for _, context in texts))}
        spans = tokenizer.spans([*contexts])
        cuts = [slice(*spans.offsets[i : i + 2]) for i in range(len(contexts))]
        characters = [trimmed(context, spans.characters[cut]) for context, cut in zip(contexts, cuts, strict=True)]
        examples: list[Example] = []
        notes: Counter[str] = Counter()
        for i, (row, (_, context)) in enumerate(zip(rows, texts, strict=True)):
            number = contexts[context]
            passage, answer = Passage(context, characters[number]), None
            if labelled:
                passage, answer = self._answered(row, passage, notes)
            question = questions.ids[questions.offsets[i] : questions.offsets[i + 1]]
            own = self._windows(i, question, spans.ids[cuts[number]], passage, tokenizer)
            if labelled:
                own = [example._replace(target=_target(example, answer)) for example in own]
                notes["cut"] += answer is not None and all(example.target == (example.null,) * 2 for example in own)
            notes["question"] += own[0].tokens.cut > 0
            examples += own
        if rows:
            tell(notes, rows[0].source, self.config)
        return examples

    def _answered(self, row: Row, passage: Passage, notes: Counter[str]) -> tuple[Passage, tuple[int, int] | None]:
        """The passage with all its answers, and the tokens of the first one that is found in it."""
        answers = truth.answers(row, self.config)
        places = [locate(answer, passage.context) for answer in answers]
        passage = passage._replace(right=tuple(answer.text for answer in answers))
        notes["absent"] += places.count(None)
        notes.update(place.how for place in places if place is not None)
        if not answers:
            return passage, None
        first = next((i for i, place in enumerate(places) if place is not None), None)
        if first is None:
            start = answers[0].start
            told = "" if start is None else f", nor is it once nearest to {start}, its answer_start"
            message = f"the answer {shown(answers[0].text, 60)} does not stand in {shown(self.config.context)}{told}"
            raise DataError(message, where=row.place, fix="correct the answer or its answer_start, or leave the row out")
        place = places[first]
        assert place is not None
        found = passage.tokens(place.start, place.start + len(answers[first].text))
        if found is None:
            notes["inside"] += 1
            return passage, None
        start, end, exact = found
        notes["inside"] += not exact
        notes["long"] += end - start >= self.config.answer_length
        return passage, (start, end)

    def _windows(
        self, row: int, question: np.ndarray, context: np.ndarray, passage: Passage, tokenizer: Tokenizer
    ) -> list[Example]:
        """The windows of a row, from the ids of its question and its passage."""
        asked, found, read = question[: self.config.question_length], [], 0
        room = self.length - len(tokenizer.template.pair) + 2 - len(asked)
        for first, end in windows(len(context), room, overlap_tokens(self.config.overlap, room)):
            tokens, (_, place) = lay([asked, context[first:end]], tokenizer)
            cut, again = (0, len(asked) + read - first) if first else (len(question) - len(asked), 0)
            tokens, read = tokens._replace(cut=cut, shared=again), end
            found.append(Example(tokens, passage, first, end - first, place, self._null(tokens, tokenizer), None, row))
        return found

    def _null(self, tokens: Tokens, tokenizer: Tokenizer) -> int:
        last = self.vocabulary.summary == "last" or reading(self.encoder_config) == "left_to_right"
        return len(tokens.ids) - 1 if last or tokenizer.template.pair[0].id is None else 0

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, packed where the encoder can; nothing is drawn but dropout, in training."""
        inputs, size = self.batched([example.texts for example in examples], rngs)
        if examples[0].target is None:
            return Batch(inputs, {}, {}, size)
        allowed = np.zeros((len(examples), max(example.size for example in examples)), bool)
        for own, example in zip(allowed, examples, strict=True):
            own[: example.size] = example.allowed
        targets = {
            "allowed": torch.from_numpy(allowed),
            "labels": torch.tensor([example.target for example in examples]),
        }
        return Batch(inputs, targets, dict.fromkeys(self.weights, 2 * len(examples)), size)

    def bounds(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(B, T) tokens, N texts in them, to (N, L, 2) scores: that an answer begins, and ends; (N, L) which are real."""
        hidden, real = apart(self.encoder(inputs), inputs)
        return self.head(hidden, token_seeds(inputs)).float(), real

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of beginnings and ends, among the tokens of the passage and [CLS].

        With R-Drop that of two passes.
        """
        return in_passes(
            self.weights,
            inputs,
            lambda inputs: self.bounds(inputs)[0].mT.masked_fill(~targets["allowed"][:, None], NEVER),  # (N, 2, T)
            lambda scores: cross_entropy(scores.mT, targets["labels"], reduction="none"),
            disagreement,
        )

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """The (T, 2) scores of each window."""
        scores, real = self.bounds(inputs)
        return {"scores": [one[:size] for one, size in zip(scores, real.sum(1).tolist(), strict=True)]}

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """The mean loss of a beginning or an end, exact match and F1."""
        right = [example.passage.right for example in examples if example.first == 0]
        loss = float(np.mean(self._losses(examples, observed)))
        return {"loss": loss, **self.score(objects(right), self.decide(examples, observed))}

    def _losses(self, examples: Sequence[Example], observed: Observed) -> list[float]:
        """The mean loss of beginning and end in each window."""
        found = []
        for example, scores in zip(examples, observed["scores"], strict=True):
            assert example.target is not None
            kept = torch.from_numpy(scores).double().masked_fill(~torch.from_numpy(example.allowed)[:, None], float("-inf"))
            found.append(float(cross_entropy(kept[None], torch.tensor([example.target]))))
        return found

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the mean loss in the windows of each row."""
        rows = [example.row for example in examples]
        return np.bincount(rows, self._losses(examples, observed)) / np.bincount(rows)

    def confidence(self, examples: Sequence[Example], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each answer that is given, or of none, and whether it matches exactly."""
        right = objects([example.passage.right for example in examples if example.first == 0])
        given = [answers[0] for answers in self._best(examples, observed, 1)]
        exact = self._compared(right, objects([answer.text for answer in given]))["exact_match"]
        return np.array([answer.score for answer in given]), exact > 0

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) tuples of texts: all that is right; () for no answer."""
        return objects([tuple(answer.text for answer in truth.answers(row, self.config)) for row in rows])

    def kinds_of(self, gold: tuple[str, ...]) -> set[str]:
        """Whether there is an answer."""
        return {"answer" if gold else "no answer"}

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) texts, "" for no answer."""
        return objects([answers[0].text for answers in self._best(examples, observed, 1)])

    def tune(self, examples: Sequence[Example], observed: Observed) -> None:
        """Set the threshold for no answer to what gives the best F1 on held-out examples."""
        if self.config.unanswerable:
            ahead, gains = [], []
            for band in self._bands(examples, observed):  # one at a time: each has a score for every span
                if band.best > -np.inf:
                    texts = (band.span(int(band.scores.argmax()))[0], "")
                    given, silent = (compared(band.passage.right, text, self._language, True)[1] for text in texts)
                    ahead.append(band.null - band.best)
                    gains.append(given - silent)
            value = threshold(ahead, gains) if ahead else 0.0
            self.threshold = torch.tensor(value, dtype=torch.float32, device=self.threshold.device)

    def tuned(self) -> dict[str, float]:
        """How far no answer must be ahead to be given."""
        return {"no answer": float(self.threshold)} if self.config.unanswerable else {}

    def _bands(self, examples: Sequence[Example], observed: Observed) -> Iterator[Band]:
        return bands(examples, observed["scores"], self.config.answer_length)

    def _best(self, examples: Sequence[Example], observed: Observed, top: int) -> Iterator[list[Answer]]:
        """The `top` likeliest answers of each row, but first that which is given."""
        for band in self._bands(examples, observed):
            scores = np.append(band.scores, band.null if self.config.unanswerable else -np.inf)
            if band.best == -np.inf:  # a passage that has not a single token
                yield [Answer("", 0, 0, 1.0)]
                continue
            silent = self.config.unanswerable and band.null - band.best > float(self.threshold)
            given = len(scores) - 1 if silent else int(scores[:-1].argmax())
            order = [given]
            if top > 1:
                likely = np.argsort(-scores, kind="stable")[: top + 1].tolist()
                order = [given, *(i for i in likely if i != given and scores[i] > -np.inf)][:top]
            shares = np.exp(scores - scores.max())
            yield [Answer(*band.span(i), float(shares[i] / shares.sum())) for i in order]

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Exact match and F1, from 0 to 100."""
        values = self._compared(gold, predicted)
        return {name: 100 * float(found.mean()) for name, found in values.items()}

    def _compared(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        pairs = [
            compared(right, given, self._language, self.config.unanswerable) for right, given in zip(gold, predicted, strict=True)
        ]
        exact, f1 = np.array(pairs).T
        return {"exact_match": exact, "f1": f1}

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        found = bootstrap_means(self._compared(gold, predicted))
        return {name: (100 * low, 100 * high) for name, (low, high) in found.items()}

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """As what answers are compared; where there may be none, the metrics of questions with and without one."""
        found: dict[str, Any] = {"normalise": self._language}
        if self.config.unanswerable:
            answered = np.array([bool(right) for right in gold])
            for name, rows in (("has_answer", answered), ("no_answer", ~answered)):
                found[f"{name}_rows"] = int(rows.sum())
                if rows.any():
                    found |= {f"{name}_{metric}": v for metric, v in self.score(gold[rows], predicted[rows]).items()}
        return found

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The answer, its place in the passage and its probability; with `top` also the `answers` that are likeliest."""
        cut = [example.tokens.cut > 0 for example in examples if example.first == 0]
        for row, answers, truncated in zip(rows, self._best(examples, observed, top or 1), cut, strict=True):
            told = [answer._replace(score=float(f"{answer.score:.6g}")) for answer in answers]
            answer, start, end, score = told[0]
            yield {
                **({"id": _id(row)} if "id" in row.values else {}),
                **named(self.texts(row)),
                **{"answer": answer, "start": start, "end": end, "score": score},
                **({"answers": [{"answer": t, "start": s, "end": e, "score": p} for t, s, e, p in told]} if top else {}),
                "truncated": truncated,
            }

    def probe(self, tokens: Tokens) -> Example:
        """A window without a question."""
        characters = np.stack([np.arange(len(tokens.ids)), 1 + np.arange(len(tokens.ids))], axis=1)
        return Example(tokens, Passage("x" * len(tokens.ids), characters), 0, len(tokens.ids), 0, 0, None)

    def exported(self) -> Export:
        """As transformers' models for question answering."""
        return Export(
            "span",
            self.state_dict(),
            lambda inputs: self.bounds(inputs)[0][:, :, 0],
            dropout=self.config.dropout,
            second=lambda inputs: self.bounds(inputs)[0][:, :, 1],
            thresholds=self.tuned() or None,
            rule="there is no answer where its logits (the two of the first token, added up, the least of all windows) exceed "
            "those of the best span by more than this, the null_score_diff_threshold of run_qa",
        )


def _id(row: Row) -> Any:
    """What a row is called, as JSON can have it: of .parquet it may be a date."""
    return json.loads(json.dumps(row.values["id"], ensure_ascii=False, default=str).encode("utf-8", "replace"))


def _target(example: Example, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Where the tokens of the answer stand in a window; where it has not both, that of no answer twice."""
    if answer is None or answer[0] < example.first or answer[1] >= example.first + example.held:
        return example.null, example.null
    return answer[0] - example.first + example.place, answer[1] - example.first + example.place
