"""`encoderkit train-tokenizer`: text files to a tokenizer, in bounded memory, every byte accounted for."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from encoderkit import files
from encoderkit.console import many, say, warn
from encoderkit.data.config import CorpusConfig
from encoderkit.data.corpus import Account, read_documents
from encoderkit.data.records import named_by
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.measure import measure
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.text.training import Trained, train

_MUCH = 0.2
"""Unknown tokens above this share make a tokenizer of little use; a word tokenizer has a few per cent by its nature."""


def run(
    paths: Sequence[str | Path],
    config: TokenizerConfig,
    corpus: CorpusConfig,
    out: Path,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train a tokenizer on the documents of `paths` and write it to `out`.

    Raises `UsageError` if `out` holds something (unless `overwrite`) or the vocabulary cannot hold what it must,
    `DataError` for files that cannot be read.
    """
    started = time.monotonic()
    files.refuse_existing(out, overwrite)
    account = Account()
    with files.staged(out, {"stage": "train-tokenizer"}, overwrite) as folder:  # first: where nothing can be written, no work
        with named_by({corpus.column: "--set corpus.column=NAME"}):
            trained = train((document.text for document in read_documents(paths, corpus, account)), config)
        tokenizer = Tokenizer(trained.files, out)
        report = _report(trained, tokenizer, account, config)
        for name, data in trained.files.items():
            files.write_new(folder / name, data)
        files.write_new(folder / "report.json", json.dumps(report, ensure_ascii=False, indent=1))
    _tell(report)
    return report | {"seconds": round(time.monotonic() - started, 3), "out": str(out)}


def _report(trained: Trained, tokenizer: Tokenizer, account: Account, config: TokenizerConfig) -> dict[str, Any]:
    sample = trained.sample
    held_out = sample.held_out.amount.bytes > 0
    dropped = {k: n for k, n in account.dropped_bytes.items() if n} | trained.dropped
    used = sample.training.amount.bytes - sum(trained.dropped.values()) + sum(sample.dropped.values())
    parts = (used, sample.held_out.amount.bytes, sample.not_used.bytes, *dropped.values())
    assert account.document_bytes == sum(parts), (account.document_bytes, parts)
    return {
        "kind": config.kind,
        "vocab_size": tokenizer.vocab_size,
        "documents": account.documents,
        "bytes": account.document_bytes,
        **measure(tokenizer, sample.held_out if held_out else sample.training)._asdict(),
        "measured_on": "held-out documents" if held_out else "the training sample",
        "sampled": {"documents": sample.training.amount.documents, "bytes": used, "seed": config.seed},
        "held_out": sample.held_out.amount._asdict(),
        "not_sampled": sample.not_used._asdict(),
        "dropped": dropped,
        "fingerprint": tokenizer.fingerprint,
    }


def _tell(report: dict[str, Any]) -> None:
    dropped = ", ".join(f"{n:,} {reason}" for reason, n in report["dropped"].items()) or "none"
    say(
        f"{many(report['documents'], 'document')}, {many(report['bytes'], 'byte')}: trained on {report['sampled']['bytes']:,}, "
        f"held out {report['held_out']['bytes']:,}, not sampled {report['not_sampled']['bytes']:,}; dropped: {dropped}"
    )
    say(
        f"{report['vocab_size']:,} pieces; on {report['measured_on']}: {report['unknown_rate']:.3%} unknown, "
        f"{report['tokens_per_word']:.2f} tokens a word, {report['tokens_per_character']:.2f} a character"
    )
    if report["unknown_rate"] > _MUCH:
        warn(f"{report['unknown_rate']:.0%} of the tokens are unknown: too little text, or too small a vocabulary")
