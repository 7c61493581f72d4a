"""Batches that form while the last one runs, for every stage but the denoiser."""
