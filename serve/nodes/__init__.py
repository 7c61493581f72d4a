"""Nodes of the cluster: joining one, and leaving it on a spot notice."""
