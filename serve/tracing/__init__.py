"""Traces of requests: recorded by the ingress, kept for a while, exported where that is wanted."""
