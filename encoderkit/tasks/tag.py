"""Tags for tokens, or entities in texts, by a softmax or a CRF (Devlin et al. 2019, section 5.3; Lample et al. 2016).

A long row is read in overlapping windows, and each slot (see `tasks.slots`) is decided by the window in which it has most
context: what the windows say of their slots is joined, and the best legal chain of tags is that of the whole row, so that
no entity is cut. What is right is compared in the units of the data, tokens or characters, and includes what is lost.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from encoderkit.data.conll import joined
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, shown
from encoderkit.learner import IGNORE, Batch, Export, Vocabulary, directions
from encoderkit.metrics import bootstrap_counts, confusion, objects, per_class, single_label, tally
from encoderkit.models.build import build_tagging_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.crf import TOGETHER, Scores, Transitions, forbidding, marginals, nats, together, viterbi
from encoderkit.models.inputs import Inputs, pad
from encoderkit.tasks.annotations import known, read_entities, read_tags
from encoderkit.tasks.config import TagConfig
from encoderkit.tasks.losses import class_weights, disagreement, in_passes, labelled, weights_of
from encoderkit.tasks.schemes import Scheme, entities, legal, outputs, recognise, tags
from encoderkit.tasks.slots import NOTHING, SHARED, Slots, characters, find_slots, fit, spread, unfit, with_marks, words
from encoderkit.tasks.tagged import Example, Laid
from encoderkit.tasks.task import Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import Tokens, lay, windows
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.units import overlap_tokens


class Tag(EncoderTask):
    """Encoder and a linear layer on the first piece of each slot, as transformers' token classifiers have it; or a CRF on it."""

    config: TagConfig
    characters: Tensor
    """() bool: a text that is given as such is tagged by characters, and not by words, as the training rows were."""
    class_weights: Tensor
    """(L,) of each tag in the loss."""

    def __init__(
        self, config: TagConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str]
    ) -> None:
        """`labels`: all tags, in the order of the outputs; `length`: the tokens a window has at most."""
        super().__init__(config, encoder, vocabulary, length, labels)
        self.scheme: Scheme = _scheme(config, self.labels)
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        named = [tag[2:] for tag in self.labels if tag != "O"]
        self.kinds = self.labels if self.scheme == "plain" else list(dict.fromkeys(named))
        self.head = build_tagging_head(encoder, len(self.labels), config.dropout)
        self._forbidden = forbidding(*legal(self.labels, self.scheme if config.legal else "plain"))
        self.crf = Transitions(self._forbidden) if config.head == "crf" else None
        self.register_buffer("characters", torch.tensor(config.text is not None))
        names = ("accuracy", "macro_f1") if self.scheme == "plain" else ("f1", "precision", "recall")
        self.register_buffer("class_weights", torch.ones(len(self.labels)), persistent=False)
        self._class_weights = np.ones(len(self.labels))  # the same where batches are made, for which no GPU is to wait
        self.weights = weights_of("tag", config.rdrop)
        self.directions = directions("loss", *names)
        self.monitor = names[0]
        self.baselines: tuple[Baseline, ...] = ("commonest_in_text" if config.text else "commonest",)
        self.fields = ["text", "tokens", "tags"] if self.scheme == "plain" else ["text", "entities"]

    @staticmethod
    def find_labels(rows: Sequence[Row], config: TagConfig) -> list[str]:
        """All tags, sorted, or those of all entities in the scheme of the model; raises `DataError` where there is no choice."""
        if config.spans is not None and config.text is not None:
            scheme = "bio" if config.scheme == "auto" else config.scheme
            found = {one.label for row in rows for one in read_entities(row, config.spans, row.text(config.text))}
        else:
            used = {tag for row in rows for tag in row.words(config.tags or "")}
            scheme = recognise(used) if config.scheme == "auto" else config.scheme
            if scheme == "plain":
                if len(used) < 2:
                    fix = "rows with other tags; task.tags names the column"
                    raise DataError(f"all tokens have the same tag ({shown(str(*used))})", where=rows[0].source, fix=fix)
                return sorted(used)
            found = {one.label for row in rows for one in read_tags(row, config)}
        if not found:
            fix = "rows with entities; task.tags or task.spans names the column"
            raise DataError("there is no entity in any row, so there is nothing to learn", where=rows[0].source, fix=fix)
        return outputs(sorted(found), scheme)

    def prepare(self, examples: Sequence[Example]) -> None:
        """Note whether the tokens are characters, and set the weights of tags."""
        self.characters.fill_(self.config.text is not None or all(example.single for example in examples))
        if self.config.class_weights is not None:
            targets = [example.targets for example in examples if example.targets is not None]
            counts = np.bincount(np.concatenate(targets), minlength=len(self.labels))
            weights = class_weights(self.config.class_weights, self.labels, counts)
            self.class_weights.copy_(weights)
            self._class_weights = weights.double().numpy()

    def texts(self, row: Row) -> list[str]:
        """The text of a row, or its tokens."""
        one = self._laid(row)
        return [one.text] if one.tokens is None else one.tokens

    def _laid(self, row: Row) -> Laid:
        column = self.config.columns[0]
        if self.config.text is not None or row.typed or self._unspaced(row):
            text = row.text(column)
            return Laid(text, characters(text) if self.characters else words(text), None)
        tokens = row.words(column)
        return Laid(*joined(tokens), tokens)

    def _unspaced(self, row: Row) -> bool:
        """Whether a row without tags has a text in place of characters."""
        given = row.values.get(self.config.columns[0])
        return bool(self.characters) and isinstance(given, str) and len(given.split()) < 2 and self.config.tags not in row.values

    def _gold(self, row: Row) -> Any:
        """The entities of a row, or (U,) the numbers of plain tags; raises `DataError` for what was not seen in training."""
        if self.config.spans is not None:
            found = read_entities(row, self.config.spans, row.text(self.config.columns[0]))
        elif self.scheme == "plain":
            names = read_tags(row, self.config, plain=True)
            known(names, self.kinds, "tag", row)
            return np.array([self._numbers[name] for name in names], np.int64)
        else:
            found = read_tags(row, self.config)
        known([one.label for one in found], self.kinds, "label", row)
        return frozenset(found)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as windows; raises `DataError` with file and line for tags or entities that cannot be used."""
        laid = [self._laid(row) for row in rows]
        spans, examples = tokenizer.spans([one.text for one in laid]), []
        for i, one in enumerate(laid):
            own = slice(spans.offsets[i], spans.offsets[i + 1])
            slots = find_slots(one.text, one.units, spans.characters[own])
            if self.config.text is not None:
                slots = with_marks(one.text, slots)
            single = bool((np.diff(one.units) == 1).all())
            first, *more = self._windows(spans.ids[own], slots, tokenizer)
            targets = None
            if labelled:
                gold = self._gold(rows[i])
                targets, lost = self._targets(gold, slots, one)
                first = first._replace(gold=gold, lost=lost)
            done = 0
            for window in (first, *more):
                end = done + len(window.places)
                part = None if targets is None else targets[done:end]
                examples.append(window._replace(units=len(one.units), targets=part, single=single, row=i))
                done = end
        return examples

    def _windows(self, ids: np.ndarray, slots: Slots, tokenizer: Tokenizer) -> Iterator[Example]:
        """Windows over the pieces of a row; where two hold the same pieces, each decides the half that it sees more around."""
        room = self.length - len(tokenizer.template.single) + 1
        cuts = windows(len(ids), room, overlap_tokens(self.config.overlap, room))
        borders = [0, *((end - 1 + start) // 2 + 1 for (_, end), (start, _) in pairwise(cuts)), len(ids)]
        ends = np.searchsorted(slots.places, borders).tolist()
        read = 0
        for (start, end), (low, high) in zip(cuts, pairwise(ends), strict=True):
            tokens, [begin] = lay([ids[start:end]], tokenizer)
            tokens, read = tokens._replace(shared=read - min(start, read)), end
            own = Slots(*(values[low:high] for values in slots))
            yield Example(tokens, own.places - start + begin, own, 0, (low == 0, high == ends[-1]))

    def _targets(self, gold: Any, slots: Slots, one: Laid) -> tuple[np.ndarray, Counter[str]]:
        """(S,) the numbers of the tags of slots, and what they leave out of what is right."""
        if self.scheme == "plain":
            targets = gold[slots.first]
            there = np.concatenate([np.zeros(0, int), *map(np.arange, slots.first, slots.last + 1)])
            lost = Counter({SHARED: int((spread(targets, slots, len(gold)) != gold)[there].sum())})
        else:
            fitted, lost = fit(gold, slots)
            names = tags(fitted, len(slots.places), self.scheme)
            targets, there = np.array([self._numbers[name] for name in names], np.int64), None
        if one.tokens is not None:
            held = int((slots.last - slots.first + 1).sum()) if there is None else len(there)
            lost[NOTHING] += len(one.tokens) - held - sum(token.isspace() for token in one.tokens)
        return targets, +lost

    def lost(self, examples: Sequence[Example]) -> dict[str, int]:
        """What cannot be given of what is right, whatever the model has learned, by the reason."""
        return dict(sum((example.lost for example in examples if example.lost), Counter[str]()))

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch; nothing is drawn but dropout, in training."""
        inputs, tokens = self.batched([example.texts for example in examples], rngs)
        width, most = inputs.ids.shape[1], max(len(example.places) for example in examples)
        if inputs.texts is None:
            found = [i * width + example.places for i, example in enumerate(examples)]
        else:
            found = [own[example.places] for own, example in zip(inputs.texts.numpy(), examples, strict=True)]
        targets = {"places": pad(found, most, -1), "edges": torch.tensor([example.edges for example in examples])}
        known = [example.targets for example in examples if example.targets is not None]
        if len(known) < len(examples):
            return Batch(inputs, targets, {}, tokens)
        targets["labels"] = pad(known, most, IGNORE)
        counts = dict.fromkeys(self.weights, float(sum(map(len, known))))
        if self.config.class_weights is not None:
            counts["tag"] = float(self._class_weights[np.concatenate(known)].sum())
        return Batch(inputs, targets, counts, tokens)

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to (B, T, L) logits."""
        return self.head(self.encoder(inputs), inputs.seeds).float()

    def emissions(self, inputs: Inputs, targets: dict[str, Tensor]) -> Tensor:
        """(N, S, L) the logits of the slots of each example, 0 after its last."""
        logits, places = self._slots(inputs, targets), targets["places"]
        return logits.new_zeros(*places.shape, len(self.labels)).masked_scatter((places >= 0)[:, :, None], logits)

    def _slots(self, inputs: Inputs, targets: dict[str, Tensor]) -> Tensor:
        """(M, L) the logits of all slots."""
        places = targets["places"][targets["places"] >= 0]
        seeds = None if inputs.seeds is None else inputs.seeds.flatten()[places]
        return self.head(self.encoder(inputs).flatten(0, 1).index_select(0, places), seeds).float()

    def _nats(self, emissions: Tensor, targets: dict[str, Tensor], scores: Scores | None) -> Tensor:
        """(N,) the summed cross-entropy of the tags of each example, or that of its chain with the CRF's `scores`."""
        labels = targets["labels"]
        if scores is None:
            return cross_entropy(emissions.mT, labels, ignore_index=IGNORE, reduction="none").sum(1)
        return nats(emissions, labels, labels != IGNORE, targets["edges"], scores)

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed loss of all tags; without a CRF weighted, and smoothed or focal, and with R-Drop that of two passes."""
        if self.crf is not None:
            return {"tag": self._nats(self.emissions(inputs, targets), targets, self.crf()).sum()}
        labels = targets["labels"][targets["places"] >= 0]
        smoothing, power = self.config.label_smoothing, self.config.focal
        return in_passes(
            self.weights,
            inputs,
            lambda inputs: self._slots(inputs, targets),
            lambda logits: labelled(logits, labels, self.class_weights, smoothing, power),
            disagreement,
        )

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """(S, L) the logits of the slots of each example."""
        sizes = (targets["places"] >= 0).sum(1).tolist()
        return {"emissions": [one[:size] for one, size in zip(self.emissions(inputs, targets), sizes, strict=True)]}

    def _chains(self, examples: Sequence[Example], observed: Observed) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Emissions and targets of examples with labels, some at a time."""
        for start in range(0, len(examples), TOGETHER):
            part = examples[start : start + TOGETHER]
            emissions = pad_sequence([torch.from_numpy(e) for e in observed["emissions"][start : start + TOGETHER]], True)
            labels = [example.targets for example in part if example.targets is not None]
            edges = torch.tensor([example.edges for example in part])
            yield emissions, {"labels": pad(labels, emissions.shape[1], IGNORE), "edges": edges}

    def _losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the summed loss of the tags of each example."""
        scores = None if self.crf is None else self._scores()
        found = [self._nats(*chains, scores) for chains in self._chains(examples, observed)]
        return torch.cat(found).double().numpy()

    def confidence(self, examples: Sequence[Example], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the likeliest tag of each slot over all legal chains; of those of entities, most being O."""
        found = []
        for emissions, targets in self._chains(examples, observed):
            mask = targets["labels"] != IGNORE
            p, tag = marginals(emissions, mask, targets["edges"], self._scores())[mask].max(-1)
            right = tag == targets["labels"][mask]
            said = torch.ones_like(right) if self.scheme == "plain" else tag != self._numbers["O"]
            found.append((p[said].double().numpy(), right[said].numpy()))
        p, right = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return p.clip(0, 1), right

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """The loss of a tag (without weights and smoothing), and `score` of the rows."""
        gold = objects([next(group).gold for _, group in groupby(examples, key=lambda example: example.row)])
        count = sum(len(example.places) for example in examples)
        loss = float(self._losses(examples, observed).sum()) / max(count, 1)
        return {"loss": loss, **self.score(gold, self.decide(examples, observed))}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the loss of a tag of each row."""
        rows, counts = [example.row for example in examples], [len(example.places) for example in examples]
        return np.bincount(rows, self._losses(examples, observed)) / np.bincount(rows, counts).clip(min=1)

    def _scores(self) -> Scores:
        """What chains score, on the CPU; without a CRF only what is forbidden."""
        with torch.no_grad():
            return self._forbidden if self.crf is None else Scores(*(scores.cpu() for scores in self.crf()))

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) sets of entities by tokens or characters, or (U,) arrays of the numbers of plain tags."""
        return objects([self._gold(row) for row in rows])

    def kinds_of(self, gold: Any) -> set[str]:
        """The kinds of the entities of a row, or its plain tags; none where there is nothing, as F1 is 0 there for any answer."""
        plain = self.scheme == "plain"
        return {self.kinds[one] if plain else one.label for one in (gold.tolist() if plain else gold)}

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """As `gold`: the best legal chain of each row."""
        joined = []
        for _, group in groupby(zip(examples, observed["emissions"], strict=True), key=lambda pair: pair[0].row):
            parts, emissions = zip(*group, strict=True)
            slots = Slots(*(np.concatenate(values) for values in zip(*(part.slots for part in parts), strict=True)))
            joined.append((slots, torch.from_numpy(np.concatenate(emissions)), parts[0].units))
        found, scores = [np.zeros(0, np.int64)] * len(joined), self._scores()
        order = sorted((i for i, (slots, _, _) in enumerate(joined) if len(slots.places)), key=lambda i: len(joined[i][1]))
        for start, end in together([len(joined[i][1]) for i in order]):
            part = order[start:end]
            sizes = torch.tensor([len(joined[i][1]) for i in part])
            paths = viterbi(
                pad_sequence([joined[i][1] for i in part], True), torch.arange(int(sizes.max())) < sizes[:, None], scores
            )
            for i, path, size in zip(part, paths.numpy(), sizes.tolist(), strict=True):
                found[i] = path[:size]
        if self.scheme == "plain":
            return objects([spread(path, slots, units) for path, (slots, _, units) in zip(found, joined, strict=True)])
        names = [[self.labels[i] for i in path] for path in found]
        return objects([unfit(entities(own), slots) for own, (slots, _, _) in zip(names, joined, strict=True)])

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """F1, precision and recall of entities, micro averages; or accuracy and macro F1 of plain tags."""
        if self.scheme != "plain":
            hit = sum(len(a & b) for a, b in zip(gold, predicted, strict=True))
            right, given = sum(map(len, gold)), sum(map(len, predicted))
            return self._measures(np.array([[hit, given - hit, right - hit]]), float)
        matrix = confusion(np.concatenate(gold), np.concatenate(predicted), len(self.labels))
        return self._measures(tally(matrix), float)

    def _measures(self, counts: np.ndarray, kind: Any = np.asarray) -> dict[str, Any]:
        """(..., L, 3) to the metrics that `directions` names, (...)."""
        if self.scheme == "plain":
            values = single_label(counts)
        else:
            values = {name: value[..., 0] for name, value in per_class(counts.sum(-2, keepdims=True)).items()}
        return {name: kind(values[name]) for name in self.directions if name != "loss"}

    def _counts(self, gold: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """(N, L, 3) true positives, false positives and false negatives of each row and label."""
        if self.scheme == "plain":
            pairs = zip(gold, predicted, strict=True)
            return np.stack([tally(confusion(right, given, len(self.labels))) for right, given in pairs])
        number, counts = {kind: i for i, kind in enumerate(self.kinds)}, np.zeros((len(gold), len(self.kinds), 3), np.int64)
        for row, right, given in zip(counts, gold, predicted, strict=True):
            for column, part in enumerate((right & given, given - right, right - given)):
                for one in part:
                    row[number[one.label], column] += 1
        return counts

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        return bootstrap_counts(self._counts(gold, predicted), self._measures)

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Precision, recall, F1 and support of each label."""
        parts = {name: values.tolist() for name, values in per_class(self._counts(gold, predicted).sum(0)).items()}
        return {"per_class": {label: {n: v[i] for n, v in parts.items()} for i, label in enumerate(self.kinds)}}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The text, its entities by their characters, and the tags of the tokens where the row gave tokens."""
        for row, found in zip(rows, self.decide(examples, observed), strict=True):
            one = self._laid(row)
            entry: dict[str, Any] = {"text": one.text}
            if self.scheme == "plain":
                tokens = one.tokens or [one.text[start:end] for start, end in one.units.tolist()]
                yield entry | {"tokens": tokens, "tags": [self.labels[i] for i in found]}
                continue
            if one.tokens is not None:
                entry |= {"tokens": one.tokens, "tags": tags(found, len(one.tokens), self.scheme)}
            places = [(int(one.units[a, 0]), int(one.units[b - 1, 1]), label) for a, b, label in sorted(found)]
            named = [{"start": a, "end": b, "label": label, "text": one.text[a:b]} for a, b, label in places]
            yield entry | {"entities": named}

    def probe(self, tokens: Tokens) -> Example:
        """An example whose tokens all have a tag."""
        places = np.arange(len(tokens.ids))
        return Example(tokens, places, Slots(places, places, places), len(places), (True, True))

    def exported(self) -> Export | str:
        """As transformers' token classifiers, which take the likeliest tag of each token; they have no CRF."""
        if self.crf is not None:
            return "transformers has no token classifier with a CRF (task.head: softmax can be handed over)"
        return Export("tag", self.state_dict(), self.logits, tuple(self.labels), dropout=self.config.dropout)


def _scheme(config: TagConfig, labels: Sequence[str]) -> Scheme:
    """That of the outputs."""
    if config.scheme != "auto":
        return config.scheme
    prefixes = {label[:2] for label in labels}
    return "plain" if "B-" not in prefixes else "bioes" if "S-" in prefixes else "bio"
