"""Packed batches of segments, and attention inside each; names no model."""
