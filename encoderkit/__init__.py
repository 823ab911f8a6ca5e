"""Train your own text encoder: raw text to tokenizer, pretraining, fine-tuning, evaluation and export."""

__version__ = "0.1.0"
