"""The stages as Ray Serve deployments, and the graph that runs one job through them.

Importing this package loads neither torch nor Ray; see README.md for what is where.
"""
