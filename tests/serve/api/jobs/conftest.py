"""Clients of replicas over one store of jobs."""

from tests.serve.jobs.conftest import replica_of, store_of

__all__ = ["replica_of", "store_of"]
