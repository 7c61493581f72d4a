"""Jobs in a Redis, for ingress replicas on any number of nodes."""

from serve.jobs.store.redis.store import RedisStore

__all__ = ["RedisStore"]
