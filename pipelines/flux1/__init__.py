"""FLUX.1: the only place that knows its modules, names and sizes."""
