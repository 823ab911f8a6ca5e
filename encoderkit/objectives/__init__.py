"""Learners whose labels are made from the text itself."""
