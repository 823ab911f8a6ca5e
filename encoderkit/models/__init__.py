"""Encoders: (B, T) ids in, (B, T, D) vectors out."""
