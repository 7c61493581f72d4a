"""FLUX.1-dev's shape on one GPU, for a machine that is lent for minutes.

`__main__.py` has the command. Needs torch, diffusers and transformers, and nothing else of what
the server needs.
"""
