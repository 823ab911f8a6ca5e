"""What people would use instead, as its own examples use it. Each prints one JSON object: {"rate": ...}.

  python -m tests.benchmarks.peers pretrain --tokenizer DIR --corpus FILE --precision bf16 --updates 30

Needs the extra `test`. Nothing here is tuned against anybody: a faster setting of a peer is a further row.
"""

import argparse
import importlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

WARM = 5
"""Updates (or batches) that are not counted."""


class Clock(TrainerCallback):
    """When each update ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """An update, on average, without the first ones."""
        return (self.times[-1] - self.times[WARM - 1]) / (len(self.times) - WARM)


def trained(model: torch.nn.Module, rows: Any, collator: Any, a: argparse.Namespace) -> float:
    """Seconds an update takes in transformers' Trainer."""
    clock = Clock()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=WARM + a.updates,
        per_device_train_batch_size=a.batch,
        learning_rate=1e-4,
        bf16=a.precision == "bf16",
        torch_compile=a.compile,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=rows, data_collator=collator, callbacks=[clock]).train()
    return clock.seconds()


def lines(path: Path, most: float) -> Iterator[str]:
    """The lines of a corpus that hold something, up to about `most` bytes."""
    size = 0
    with open(path, encoding="utf-8") as file:
        for line in file:
            size += len(line.encode())
            if line.strip():
                yield line.strip()
            if size > most:
                return


def pretrain(a: argparse.Namespace) -> float:
    """Tokens a second of BERT under its masked objective: blocks of 128, run_mlm's way."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(a.tokenizer)
    ids: list[int] = []
    for line in lines(a.corpus, 20e6):
        ids += tokenizer(line, add_special_tokens=False)["input_ids"]
    blocks = [
        {"input_ids": [tokenizer.cls_token_id, *ids[i : i + 126], tokenizer.sep_token_id]} for i in range(0, len(ids) - 126, 126)
    ]
    sizes = {"num_hidden_layers": a.layers, "hidden_size": a.dim, "num_attention_heads": a.heads, "intermediate_size": 4 * a.dim}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes))
    return a.batch * 128 / trained(model, blocks, DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15), a)


def finetune(a: argparse.Namespace) -> float:
    """Examples a second of a classifier on texts of uneven length, each batch padded to its longest."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(a.model)
    rows = [json.loads(line) for line in lines(a.data, 3e6)]
    labels = sorted({row["label"] for row in rows})
    ids = [tokenizer(row["sentence"], truncation=True, max_length=128)["input_ids"] for row in rows]
    made = [{"input_ids": own, "labels": labels.index(row["label"])} for own, row in zip(ids, rows, strict=True)]
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=len(labels))
    return a.batch / trained(model, made, DataCollatorWithPadding(tokenizer), a)


def embed(a: argparse.Namespace) -> float:
    """Texts a second, tokenizing included: sorted by length, 32 at a time, the mean over all tokens."""
    if a.engine == "sentence-transformers":
        library = importlib.import_module("sentence_transformers").SentenceTransformer(str(a.model), device="cpu")
        library.max_seq_length = 128
        return timed(partial(library.encode, show_progress_bar=False), sentences(a.data))
    return computed(a, AutoModel, lambda vectors, mask: (vectors * mask).sum(1) / mask.sum(1))


def predict(a: argparse.Namespace) -> float:
    """Likewise, the probabilities of labels."""
    if a.engine == "pipeline":
        pipeline = transformers.pipeline("text-classification", model=str(a.model), device="cpu")
        return timed(partial(pipeline, batch_size=32, truncation=True, max_length=128), sentences(a.data))
    return computed(a, AutoModelForSequenceClassification, lambda logits, mask: logits.softmax(-1).max(-1))


def sentences(path: Path) -> list[str]:
    """The texts of a file, the longest first."""
    return sorted((json.loads(line)["sentence"] for line in lines(path, 1e12)), key=len, reverse=True)


def timed(work: Callable[[list[str]], Any], texts: list[str]) -> float:
    """Texts a second of a function of them all, after a warm-up on a few."""
    work(texts[: 32 * WARM])
    started = time.perf_counter()
    work(texts)
    return len(texts) / (time.perf_counter() - started)


def computed(a: argparse.Namespace, kind: Any, finish: Callable[[torch.Tensor, torch.Tensor], Any]) -> float:
    """Texts a second of a model of transformers or what became of it; `finish` takes its outputs and the mask (B, T, 1)."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(a.model)
    model = kind.from_pretrained(a.model).eval()
    run = model if a.engine == "transformers" else converted(model, a.engine)

    def work(texts: list[str]) -> None:
        for i in range(0, len(texts), 32):
            batch = tokenizer(texts[i : i + 32], padding=True, truncation=True, max_length=128, return_tensors="pt")
            outputs = run(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
            finish(torch.as_tensor(outputs).float(), batch["attention_mask"][:, :, None])

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
        return timed(work, sentences(a.data))


def converted(model: torch.nn.Module, engine: str) -> Any:
    """The model as ONNX Runtime runs it (int8: weights and activations by its dynamic quantisation), or OpenVINO."""
    model.config.return_dict = False
    folder, names = Path(tempfile.mkdtemp()), ["input_ids", "attention_mask"]
    ids = torch.ones(2, 16, dtype=torch.int64)
    rows, width = torch.export.Dim("rows"), torch.export.Dim("width", max=128)
    shapes = {name: {0: rows, 1: width} for name in names}
    saved = folder / "model.onnx"
    torch.onnx.export(
        model, kwargs=dict.fromkeys(names, ids), f=str(saved), input_names=names, dynamo=True, dynamic_shapes=shapes
    )
    if engine == "openvino":
        openvino = importlib.import_module("openvino")
        compiled = openvino.Core().compile_model(str(saved), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        return lambda **batch: [compiled([tensor.numpy() for tensor in batch.values()])[0]]
    if engine == "onnx-int8":
        quantization = importlib.import_module("onnxruntime.quantization")
        quantization.quantize_dynamic(str(saved), str(folder / "int8.onnx"))
        saved = folder / "int8.onnx"
    session = importlib.import_module("onnxruntime").InferenceSession(str(saved))
    return lambda **batch: session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})


class Recurrent(torch.nn.Module):
    """The classifier of a tutorial: embeddings, torch's own LSTM or GRU in two directions, the maximum over time."""

    def __init__(self, kind: str, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, 256, padding_idx=0)
        layer = torch.nn.LSTM if kind == "lstm" else torch.nn.GRU
        self.layer = layer(256, 256, batch_first=True, bidirectional=True)
        self.out = torch.nn.Linear(512, labels)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.tokens(ids))[0].amax(1))


class Convolutional(torch.nn.Module):
    """As `cnn` computes: residual convolutions of 3 tokens, twice as far apart from layer to layer, the maximum over time."""

    def __init__(self, vocabulary: int, labels: int) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary, 256, padding_idx=0)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(256) for _ in range(5))
        self.layers = torch.nn.ModuleList(torch.nn.Conv1d(256, 256, 3, padding=2**i, dilation=2**i) for i in range(4))
        self.out = torch.nn.Linear(256, labels)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x, mask = self.tokens(ids), (ids != 0)[:, :, None]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + torch.nn.functional.gelu(layer((norm(x) * mask).transpose(1, 2)).transpose(1, 2))
        return self.out(self.norms[-1](x).masked_fill(~mask, -torch.inf).amax(1))


def classifier(a: argparse.Namespace) -> float:
    """Examples a second of such a classifier in a plain loop, each batch padded to its longest, in fp32."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(a.tokenizer)
    rows = [json.loads(line) for line in lines(a.data, 3e6)]
    ids = [tokenizer(row["sentence"], truncation=True, max_length=128)["input_ids"] for row in rows]
    labels = torch.tensor([int(row["label"]) for row in rows])
    model = Convolutional(len(tokenizer), 2) if a.kind == "cnn" else Recurrent(a.kind, len(tokenizer), 2)
    order, started = np.random.default_rng(0).permutation(len(rows)), 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for update in range(WARM + a.updates):
        if update == WARM:
            started = time.perf_counter()
        chosen = order[update * a.batch : (update + 1) * a.batch]
        width = max(len(ids[i]) for i in chosen)
        batch = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in chosen])
        torch.nn.functional.cross_entropy(model(batch), labels[chosen]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return a.batch * a.updates / (time.perf_counter() - started)


def tokenize(a: argparse.Namespace) -> float:
    """Megabytes a second of `encode_batch` over the lines of a corpus, 10,000 at a time; for unigram of sentencepiece."""
    texts, threads = list(lines(a.corpus, 1e12)), os.cpu_count() or 1
    if a.kind == "unigram":
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(a.tokenizer / "tokenizer.model"))
        encode = partial(pieces.encode, num_threads=threads)
    else:
        tokenizer = Tokenizer.from_file(str(a.tokenizer / "tokenizer.json"))

        def encode(batch: list[str]) -> list[list[int]]:
            return [encoding.ids for encoding in tokenizer.encode_batch(batch, add_special_tokens=False)]

    started = time.perf_counter()
    for i in range(0, len(texts), 10_000):
        np.concatenate([np.asarray(ids, np.uint16) for ids in encode(texts[i : i + 10_000])])
    return a.corpus.stat().st_size / 1e6 / (time.perf_counter() - started)


def train_tokenizer(a: argparse.Namespace) -> float:
    """Megabytes a second of training BERT's tokenizer, GPT-2's, or one of sentencepiece."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    started = time.perf_counter()
    if a.kind == "unigram":
        # Lines of more than 4,192 bytes are dropped in silence unless it is told otherwise: 44% of a text of long paragraphs.
        sizes = {"vocab_size": 16384, "num_threads": os.cpu_count() or 1, "minloglevel": 2, "max_sentence_length": 1 << 30}
        sentencepiece.SentencePieceTrainer.train(input=str(a.corpus), model_writer=io.BytesIO(), **sizes)
    elif a.kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=16384, special_tokens=special, initial_alphabet=letters, show_progress=False)
        tokenizer.train([str(a.corpus)], trainer)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        tokenizer.train([str(a.corpus)], trainers.WordPieceTrainer(vocab_size=16384, special_tokens=special, show_progress=False))
    return a.corpus.stat().st_size / 1e6 / (time.perf_counter() - started)


WORK = {f.__name__: f for f in (pretrain, finetune, embed, predict, classifier, tokenize, train_tokenizer)}


def main() -> None:
    """Do one piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    for name in ("tokenizer", "corpus", "model", "data"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--kind", help="of a tokenizer or a classifier")
    parser.add_argument("--engine", default="transformers", help="or sentence-transformers, pipeline, onnx, onnx-int8, openvino")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    for name, value in (("updates", 20), ("batch", 64), ("layers", 4), ("dim", 256), ("heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    print(json.dumps({"rate": WORK[a.work](a)}))


if __name__ == "__main__":
    main()
