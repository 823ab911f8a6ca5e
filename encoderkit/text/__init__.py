"""Text to ids and back: training, loading and running tokenizers."""
