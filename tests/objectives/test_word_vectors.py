"""Skip-gram, CBOW and GloVe: losses and gradients word by word in float64, their optima, and that runs are exact."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from gensim.models import Word2Vec
from scipy import sparse
from torch import nn

from encoderkit.config import validate
from encoderkit.data.blocks import Row, Rows
from encoderkit.data.cooccurrence import Cells, Portion, cooccurrences
from encoderkit.data.store import open_store
from encoderkit.errors import UserError
from encoderkit.learner import SingleThreaded, Vocabulary
from encoderkit.models.config import StaticConfig
from encoderkit.models.static import Static
from encoderkit.objectives import cbow, places
from encoderkit.objectives.cbow import Cbow
from encoderkit.objectives.config import CbowConfig, GloveConfig, SkipGramConfig
from encoderkit.objectives.glove import Glove
from encoderkit.objectives.places import Places
from encoderkit.objectives.skipgram import SkipGram
from encoderkit.objectives.windows import Sampled
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages import plan as stages_plan
from encoderkit.text.ngrams import Spelled
from encoderkit.training.config import AdagradConfig, SgdConfig
from encoderkit.training.loop import micro_batches, updates
from encoderkit.training.optim import build_optimizers
from encoderkit.training.plan import Trial
from tests.training.runs import go, go_until, plan, pretraining, weights

VOCABULARY = Vocabulary(size=14, pad=0, unk=1, cls=2, sep=3, mask=4)
PLAIN = {"window": 3, "negatives": 4, "subsample": None, "shrink": "full", "block": 4, "draws": 6}
KINDS = {"skipgram": (SkipGram, SkipGramConfig), "cbow": (Cbow, CbowConfig)}


def row(*documents: list[int]) -> Row:
    """A row of documents, each between [CLS] and [SEP]."""
    ids = np.concatenate([[2, *document, 3] for document in documents])
    numbers = np.repeat(np.arange(len(documents)) + 1, [len(document) + 2 for document in documents])
    special = ids < 5
    return Row(ids, numbers, np.arange(len(ids)), ~special, special)


ROWS = [row([5, 6, 7, 8, 9, 6, 1, 7], [10, 11]), row([12, 5, 5, 13, 8, 6, 9, 10, 11])]


def sampled(kind: str, dim: int = 6, model: dict[str, Any] | None = None, **settings: Any) -> Sampled:
    """A learner with random tables, and the frequencies of `ROWS`."""
    torch.manual_seed(0)
    learner_class, config = KINDS[kind]
    encoder = StaticConfig.model_validate({"dim": dim, **(model or {})})
    learner = learner_class(config.model_validate(PLAIN | settings), encoder, VOCABULARY, 32)
    with torch.no_grad():
        for p in learner.parameters():
            nn.init.normal_(p)
        counts = np.bincount(np.concatenate([r.ids for r in ROWS]), minlength=VOCABULARY.size)
        counts[:5] = 0
        learner.frequency.copy_(torch.from_numpy(counts))
    return learner


def rngs(count: int = 2) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(count)]


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.exp(x))


def naive(learner: Sampled, words: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The loss word by word, and the number of targets; of the collation only the drawn words are taken."""
    config = learner.config
    drawn, total, targets, block = learner.thinned(ROWS, rngs()).drawn, torch.zeros((), dtype=torch.float64), 0, 0
    share = config.negatives / config.draws
    for r in ROWS:
        kept = [(int(i), int(d)) for i, d in zip(r.ids, r.documents, strict=True) if i > 4]
        for place, (word, document) in enumerate(kept):
            around = kept[max(0, place - config.window) : place] + kept[place + 1 : place + 1 + config.window]
            near = [other for other, number in around if number == document]
            noise = outputs[drawn[block + place // config.block]]
            if isinstance(config, SkipGramConfig):
                for other in near:
                    total = total + softplus(-words[word] @ outputs[other]) + share * softplus(noise @ words[word]).sum()
                targets += len(near)
            elif near:
                whole = words[near].sum(0)
                mean = whole - (whole - words[near].mean(0)).detach()  # each of the words has all of the gradient: word2vec.c
                total = total + softplus(-mean @ outputs[word]) + share * softplus(noise @ mean).sum()
                targets += 1
        block += -(-len(kept) // config.block)
    return total, targets


@pytest.mark.parametrize(("kind", "by"), [("skipgram", "torch"), ("cbow", "torch"), ("cbow", "numba")])
def test_loss_and_gradients_are_those_word_by_word(kind: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "torch":
        monkeypatch.setattr(cbow, "compiled", lambda *_, **__: None)
    else:
        pytest.importorskip("numba")
    learner = sampled(kind)
    if kind == "cbow":
        assert isinstance(learner, SingleThreaded) and learner.single_threaded == (by == "numba")
    assert isinstance(learner.encoder, Static)
    batch = learner.collate(ROWS, rngs(), 0.5)
    loss = learner(batch.inputs, batch.targets)[kind]
    loss.backward()
    words, outputs = (t.detach().double().requires_grad_() for t in (learner.encoder.tokens.weight, learner.contexts))
    expected, targets = naive(learner, words, outputs)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and batch.counts == {kind: targets}
    for ours, theirs in ((learner.encoder.tokens.weight, words), (learner.contexts, outputs)):
        assert ours.grad is not None and theirs.grad is not None and ours.grad.is_sparse
        torch.testing.assert_close(ours.grad.to_dense().double(), theirs.grad, rtol=1e-5, atol=1e-5)
    observed = {name: t.detach().numpy() for name, t in learner.observe(batch.inputs, batch.targets).items()}
    assert learner.metrics(observed)["loss"] == pytest.approx(expected.item() / targets, rel=1e-6)


def test_scores_of_all_sizes_have_the_losses_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    found = {}
    for name, scale in ((n, s) for s in (0.1, 3.0, 100.0) for n in ("numba", "torch")):
        with monkeypatch.context() as patch:
            if name == "torch":
                patch.setattr(cbow, "compiled", lambda *_, **__: None)
            learner = sampled("cbow")
            with torch.no_grad():
                learner.contexts.mul_(scale)
            batch = learner.collate(ROWS, rngs(), 0.5)
            loss = learner(batch.inputs, batch.targets)["cbow"]
            (3 * loss).backward()
            found[name] = (loss.detach(), *(p.grad.to_dense() for p in learner.parameters() if p.grad is not None))
        if name == "torch":
            for one, other in zip(found["numba"], found["torch"], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * scale)


def test_what_is_no_number_is_not_hidden_by_compiled_code() -> None:
    pytest.importorskip("numba")
    learner = sampled("cbow")
    with torch.no_grad():
        learner.contexts[9, 2] = float("nan")
    batch = learner.collate(ROWS, rngs(), 0.5)
    assert learner(batch.inputs, batch.targets)["cbow"].isnan()


@pytest.mark.parametrize("kind", ["cbow", "skipgram"])
def test_compiled_code_runs_on_one_thread_of_torch(
    kind: str, tokenizer_dir: Path, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run, and where `plan` measures its speed."""
    pytest.importorskip("numba")
    before, measured, speed = torch.get_num_threads(), [], Trial.speed

    def watched(trial: Trial, *given: Any) -> float:
        measured.append(torch.get_num_threads())
        return speed(trial, *given)

    monkeypatch.setattr(Trial, "speed", watched)
    torch.set_num_threads(2)
    try:
        recipe = word_vectors(kind, tokenizer_dir, store_dir)
        go(recipe, tmp_path / "run")
        stages_plan.run(recipe, None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    threads = 1 if kind == "cbow" else 2
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["threads"] == threads
    assert set(measured) == {threads}


def test_a_word_alone_has_no_loss_and_no_gradient() -> None:
    learner = sampled("cbow")
    batch = learner.collate([row([5])], rngs(1), 0.5)
    loss = learner(batch.inputs, batch.targets)["cbow"]
    loss.backward()
    assert loss.item() == 0 and batch.counts == {"cbow": 0}
    assert all(not p.grad.to_dense().any() for p in learner.parameters() if p.grad is not None)


@pytest.mark.parametrize("ids", [[[3, 1], [3, 3]], [[0]], [], [[7, 5, 5, 9, 0, 9]]])
def test_places_are_the_same_by_counting_and_by_sorting(ids: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    given = np.array(ids, np.int64)
    counted = Places.of(given)
    monkeypatch.setattr(places, "compiled", lambda _: None)
    for one, other in zip(counted, Places.of(given), strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize("kind", KINDS)
def test_words_with_ngrams_are_means_and_all_parts_have_gradients(kind: str) -> None:
    learner = sampled(kind, model={"ngrams": 20, "ngram_min": 2, "ngram_max": 3})
    encoder = learner.encoder
    assert isinstance(encoder, Static) and encoder.ngrams is not None
    spelled = Spelled([None] * 5 + ["ab", "abc", "机器", "x", "the", "of", "to", "bc", "cab"], 2, 3, 20)
    encoder.spelling = spelled
    own, table = (t.detach().double().requires_grad_() for t in (encoder.tokens.weight, encoder.ngrams.weight))
    parts = [own[i : i + 1] for i in range(5)]
    for i in range(5, VOCABULARY.size):
        flat, _ = spelled(np.array([i]))
        total = own[i] + table[flat].sum(0)
        parts.append(
            (total - (total - total / (1 + len(flat))).detach())[None]
        )  # each row has the whole gradient, as in fastText
    batch = learner.collate(ROWS, rngs(), 0.5)
    loss = learner(batch.inputs, batch.targets)[kind]
    loss.backward()
    expected, _ = naive(learner, torch.cat(parts), learner.contexts.detach().double())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for ours, theirs in ((encoder.tokens.weight, own), (encoder.ngrams.weight, table)):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad.to_dense().double(), theirs.grad, rtol=1e-5, atol=1e-5)


def test_skipgram_finds_the_shifted_mutual_information() -> None:
    """Levy and Goldberg 2014: with enough dimensions the products are log(#(w, c) |D| / (#w #c)) - log k."""
    rng = np.random.default_rng(0)
    source = [row(rng.choice(np.arange(5, 11), 60, p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]).tolist()) for _ in range(6)]
    torch.manual_seed(0)
    settings = PLAIN | {"noise_power": 1.0, "window": 1, "block": 64, "draws": 256, "negatives": 2}
    learner = SkipGram(SkipGramConfig.model_validate(settings), StaticConfig(dim=16), VOCABULARY, 64)
    pairs = Counter(p for r in source for a, b in zip(r.ids[1:-2], r.ids[2:-1], strict=True) for p in ((a, b), (b, a)))
    counts = np.zeros((14, 14))
    for (a, b), n in pairs.items():
        counts[a, b] = n
    learner.frequency.copy_(torch.from_numpy(counts.sum(1).astype(np.int64)))
    optimizers = build_optimizers(learner, AdagradConfig(lr=0.2), torch.float32)
    for _ in updates(learner, optimizers, source, plan(400, 6)):
        pass
    seen = np.ix_(range(5, 11), range(5, 11))
    products = (learner.encoder.tokens.weight @ learner.contexts.T).detach().numpy()[seen]
    share = counts[seen]
    expected = np.log(share * share.sum() / np.outer(share.sum(1), share.sum(0))) - np.log(2)
    assert np.abs(products - expected).max() < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_eight_sequences_are_memorised(kind: str) -> None:
    """Of words that occur once each: what stands around a place scores highest with the words that belong there."""
    torch.manual_seed(0)
    vocabulary = VOCABULARY._replace(size=69)
    learner_class, config = KINDS[kind]
    learner = learner_class(config.model_validate(PLAIN | {"window": 7}), StaticConfig(dim=48), vocabulary, 16)
    learner.frequency.copy_(torch.cat([torch.zeros(5), torch.ones(64)]))
    source = [row(sequence.tolist()) for sequence in np.arange(5, 69).reshape(8, 8)]
    optimizers = build_optimizers(learner, AdagradConfig(lr=0.3 if kind == "cbow" else 0.1), torch.float32)
    for _ in updates(learner, optimizers, source, plan(400, 8)):
        pass
    words, outputs = (table.detach()[5:].view(8, 8, 48) for table in (learner.encoder.tokens.weight, learner.contexts))
    if kind == "cbow":
        others = (words.sum(1, keepdim=True) - words) / 7
        best = (others.view(64, 48) @ outputs.view(64, 48).T).argmax(1)
        assert best.tolist() == list(range(64))
    else:
        best = (words.view(64, 48) @ outputs.view(64, 48).T).topk(7).indices
        assert (best // 8 == torch.arange(64)[:, None] // 8).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_and_drawn_is_as_in_gensim(kind: str, store_dir: Path) -> None:
    """Counts over the whole text, the chance of each word to be kept (word2vec.c's), and counts to the power of 0.75."""
    store = open_store(store_dir)
    counts = Counter(int(i) for number in range(len(store)) for i in store[number] if i > 4)
    learner_class, config = KINDS[kind]
    vocabulary = VOCABULARY._replace(size=store.meta.vocab_size)
    learner = learner_class(config.model_validate({"subsample": 0.01}), StaticConfig(dim=4), vocabulary, 32)
    learner.survey(Rows(store, 16, 2, 3))
    assert {i: n for i, n in enumerate(learner.frequency.tolist()) if n} == dict(counts)
    keep, noise = learner.tables()
    their = Word2Vec(vector_size=4, sample=0.01, min_count=1, negative=5)
    their.build_vocab_from_freq({str(i): n for i, n in counts.items()})
    for i in counts:
        assert keep[i] == pytest.approx(their.wv.get_vecattr(str(i), "sample_int") / 2**32, abs=1e-4)
    whole = sum(n**0.75 for n in counts.values())
    shares = np.bincount(noise, minlength=vocabulary.size) / len(noise)
    assert all(shares[i] == pytest.approx(n**0.75 / whole, abs=1e-5) for i, n in counts.items())
    assert config().noise_power == 0.75


def test_windows_shrink_by_chance_and_all_sizes_are_as_likely() -> None:
    made = sampled("skipgram", shrink="dynamic", window=5)
    reaches = np.concatenate([made.thinned([row(*[[5, 6, 7, 8, 9, 10, 11, 12]] * 40)], [rng]).reach for rng in rngs(20)])
    found = np.bincount(reaches[reaches > 0], minlength=6)[1:]
    assert len(found) == 5 and found.min() > 0.17 * found.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_word2vecs(kind: str) -> None:
    """Each row moves by the rate times the sum of its gradients over the targets, not their mean."""
    learner = sampled(kind)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    [batch] = micro_batches(learner, ROWS, plan(1, 2), 0)
    learner(batch.inputs, batch.targets)[kind].backward()
    sums = {name: p.grad.to_dense() for name, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad(set_to_none=True)
    [_] = updates(learner, build_optimizers(learner, SgdConfig(lr=0.1, row_clip=None), torch.float32), ROWS, plan(1, 2))
    for name, p in learner.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * sums[name], atol=1e-5, rtol=1e-4)
    assert len(sums) == 2 and all(value.any() for value in sums.values())


def test_gloves_loss_is_equation_8() -> None:
    """Pennington et al. 2014: the weight of a pair is its count by x_max to the power of 3/4, and 1 at the most."""
    torch.manual_seed(0)
    learner = Glove(GloveConfig(x_max=10, alpha=0.75), StaticConfig(dim=6), VOCABULARY, 16)
    with torch.no_grad():
        for p in learner.parameters():
            nn.init.normal_(p)
    ids, others, counts = np.array([5, 6, 7]), np.array([8, 5, 9]), np.array([2.0, 10.0, 50.0])
    batch = learner.collate([Portion(ids, others, counts, np.arange(3))], rngs(1), 0.0)
    words, contexts = learner.encoder.tokens.weight.detach().double(), learner.contexts.detach().double()
    expected = 0.0
    for i, j, x in zip(ids, others, counts, strict=True):
        error = words[i] @ contexts[j] + learner.bias[i] + learner.context_bias[j] - np.log(x)
        expected += min(1.0, x / 10) ** 0.75 * float(error.detach()) ** 2
    assert float(learner(batch.inputs, batch.targets)["glove"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("way", ["compiled", "rounds"])
def test_each_pair_of_glove_is_a_step(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the authors' code, one after the other: against a loop in double precision, in the order of the rounds."""
    if way == "rounds":
        monkeypatch.setattr("encoderkit.training.rowwise.compiled", lambda *_, **__: None)
    torch.manual_seed(0)
    learner = Glove(GloveConfig(x_max=10, alpha=0.75), StaticConfig(dim=6, context="add"), VOCABULARY, 16)
    with torch.no_grad():
        for p in learner.parameters():
            nn.init.normal_(p)
    matrix = (
        np.random.default_rng(0).integers(0, 40, (VOCABULARY.size, VOCABULARY.size)) * (np.arange(VOCABULARY.size) > 5)[:, None]
    )
    cells = Cells(sparse.csr_matrix(matrix.astype(np.float64)), 8)
    for index in range(len(cells)):
        part = cells[index]
        starts = np.flatnonzero(np.diff(part.rounds, prepend=-1))
        for rows in (part.ids, part.others):
            assert all(len(set(one)) == len(one) for one in np.split(rows, starts[1:]))
    everything = [cells[index] for index in range(len(cells))]
    assert sum(len(part.counts) for part in everything) == np.count_nonzero(matrix)
    expected = [p.detach().double().numpy().copy() for p in learner.tables]
    sums = [np.full_like(table, 2.0) for table in expected]
    for part in everything:
        for i, j, x in zip(part.ids, part.others, part.counts, strict=True):
            a, b, left, right = (table[row] for table, row in zip(expected, (i, j, i, j), strict=True))
            pull = min(1.0, x / 10) ** 0.75 * (a @ b + left + right - np.log(float(x)))
            for table, total, row, gradient in zip(expected, sums, (i, j, i, j), (pull * b, pull * a, pull, pull), strict=True):
                total[row] += gradient**2
                table[row] = table[row] - 0.3 * gradient / np.sqrt(total[row])
    [optimizer] = build_optimizers(learner, AdagradConfig(lr=0.3, initial=2), torch.float32)
    for group in optimizer.param_groups:
        group["lr"] = 0.3
    parts = everything[::-1] if way == "rounds" else everything  # whatever order they come in
    monkeypatch.setattr("encoderkit.objectives.glove._PLACES", 1)
    for some in (parts[:2], parts[2:]):
        batch = learner.collate(some, rngs(len(some)), 0.0)
        learner(batch.inputs, batch.targets)["glove"].backward()
    optimizer.step()
    for p, table in zip(learner.tables, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), table, atol=1e-4, rtol=1e-4)
    assert not learner.steps


def test_glove_counts_and_fits(tokenizer_dir: Path, store_dir: Path) -> None:
    """Counts as in a loop over the text; with enough dimensions the products and biases are their logarithms."""
    store = open_store(store_dir)
    rows = Rows(store, 16, 2, 3)
    expected: Counter[tuple[int, int]] = Counter()
    for document in range(len(store)):
        ids = [int(i) for i in store[document] if i != 1]
        for place, word in enumerate(ids):
            for other in range(max(0, place - 4), place):
                for pair in ((word, ids[other]), (ids[other], word)):
                    expected[pair] += 1 / (place - other)
    found = cooccurrences(rows.chunks(100), store.meta.vocab_size, 4, np.array([1])).tocoo()
    counted = {(int(r), int(c)): x for r, c, x in zip(found.row, found.col, found.data, strict=True)}
    assert counted.keys() == expected.keys()
    assert all(counted[pair] == pytest.approx(x) for pair, x in expected.items())

    torch.manual_seed(0)
    vocabulary = VOCABULARY._replace(size=store.meta.vocab_size)
    learner = Glove(GloveConfig(window=4, x_max=10), StaticConfig(dim=48, context="add"), vocabulary, 16)
    source = learner.survey(rows)
    first = last = 0.0
    for update in updates(learner, build_optimizers(learner, AdagradConfig(lr=0.1), torch.float32), source, plan(300, 4)):
        first, last = first or update.loss, update.loss
    assert first > 1 and last < 0.01
    part = source[0]
    left, right = learner.encoder.tokens.weight[part.ids.astype(int)], learner.contexts[part.others.astype(int)]
    fitted = (left * right).sum(1) + learner.bias[part.ids.astype(int)] + learner.context_bias[part.others.astype(int)]
    heavy = part.counts > 10
    assert np.abs(fitted.detach().numpy() - np.log(part.counts))[heavy].max() < 0.1
    sums = learner.encoder.vectors(torch.arange(9))
    torch.testing.assert_close(sums, learner.encoder.tokens.weight[:9] + learner.contexts[:9])


MODELS = {
    "skipgram": ({"kind": "static", "dim": 8}, {"kind": "skipgram", "window": 2, "block": 4, "draws": 4}),
    "ngrams": ({"kind": "static", "dim": 8, "ngrams": 50}, {"kind": "skipgram", "window": 2, "block": 4, "draws": 4}),
    "cbow": ({"kind": "static", "dim": 8, "context": "add"}, {"kind": "cbow", "subsample": 0.01}),
    "glove": ({"kind": "static", "dim": 8, "context": "add"}, {"kind": "glove"}),
}


def word_vectors(name: str, tokenizer: Path, store: Path, **training: Any) -> PretrainRecipe:
    model, objective = MODELS[name]
    data = {"train": str(store), "dev": None if name == "glove" else 0.2, "length": 32}
    optimizer = {"kind": "adagrad", "lr": 0.05} if name == "glove" else {"kind": "sgd", "lr": 0.05}
    more = {"data": data, "model": model, "objective": objective, "optimizer": optimizer}
    batch = {"batch": 2, "micro_batch": 1} if name == "glove" else {}
    return pretraining(tokenizer, store, **more, training=batch | training)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    name: str, tokenizer_dir: Path, store_dir: Path, tmp_path: Path
) -> None:
    recipe = word_vectors(name, tokenizer_dir, store_dir)
    go(recipe, tmp_path / "whole")
    saved = safetensors.torch.load(weights(tmp_path / "whole"))
    assert saved["encoder.tokens.weight"].std() > 0 and any(t.any() for n, t in saved.items() if "head" in n or "context" in n)
    go_until(recipe, tmp_path / "parts", 3)
    go(recipe, tmp_path / "parts", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


@pytest.mark.parametrize("name", MODELS)
def test_portions_change_nothing_but_rounding(name: str, tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    results = []
    for micro in (1, 2):
        go(word_vectors(name, tokenizer_dir, store_dir, micro_batch=micro), tmp_path / str(micro))
        results.append(safetensors.torch.load(weights(tmp_path / str(micro))))
    for key, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": {"kind": "masked"}}, "objective masked asks about context, and model.kind static sees none"),
        ({"model": {"kind": "lstm", "dim": 8}}, "objective skipgram trains word vectors alone; set model.kind: static"),
        ({"optimizer": {"kind": "adamw", "lr": 0.1}}, "optimizer.kind sgd and adagrad"),
        ({"objective": {"kind": "glove"}}, "nothing can be held out; set data.dev: null"),
        ({"objective": {"kind": "glove"}, "data": {"train": "t", "dev": None}}, "a step of optimizer.kind adagrad"),
        (
            {
                "objective": {"kind": "glove"},
                "data": {"train": "t", "dev": None},
                "optimizer": {"kind": "adagrad", "lr": 1, "clip": 1},
            },
            "no gradients and no layers",
        ),
        ({"training": {"updates": 1, "compile": "on"}}, "nothing to compile"),
        ({"model": {"kind": "static", "ngram_min": 7}}, "ngram_min"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_recipe_loads(change: dict[str, Any], message: str) -> None:
    recipe = {
        "tokenizer": "tok",
        "data": {"train": "tokens"},
        "model": {"kind": "static"},
        "objective": {"kind": "skipgram"},
        "optimizer": {"kind": "sgd", "lr": 0.025},
        "training": {"updates": 1},
    }
    validate(PretrainRecipe, recipe, "recipe")
    with pytest.raises(UserError, match=message):
        validate(PretrainRecipe, recipe | change, "recipe")
