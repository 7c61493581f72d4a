"""Schemas and routes, one module per resource; `errors.py` is the one table of failures."""
