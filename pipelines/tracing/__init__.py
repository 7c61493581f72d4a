"""Spans as plain values that travel with results."""
