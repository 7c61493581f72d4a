"""Finished files: how they are encoded, and where they are kept."""
