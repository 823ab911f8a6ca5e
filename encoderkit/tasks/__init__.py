"""Learners whose labels are read from a file."""
