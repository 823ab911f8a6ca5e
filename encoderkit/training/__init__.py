"""Optimizer, schedule, loop, checkpoints and runs."""
