"""Schemas and routes, one module per resource; `serve.errors` has the one table of failures."""
