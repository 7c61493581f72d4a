"""Traces as a page, in a terminal, as JSON."""
