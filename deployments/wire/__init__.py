"""Tensors as they travel between processes."""
