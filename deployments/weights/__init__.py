"""Weights: from a source and the parts of it that a stage needs to a folder of checked files.

`fetch.fetch` is the whole interface; `source.parse_source` tells early what cannot be one. Knows no
torch: what is in the files is the business of `pipelines.families`.
"""
