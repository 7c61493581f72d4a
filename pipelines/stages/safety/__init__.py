"""Classifiers that score finished pictures."""
