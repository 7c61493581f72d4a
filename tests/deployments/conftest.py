"""Fixtures of the deployments' tests."""

from __future__ import annotations

from tests.cluster import cluster

__all__ = ["cluster"]
