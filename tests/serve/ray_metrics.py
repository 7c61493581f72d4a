"""Names of Ray's metrics that our dashboard and rules use, as a real endpoint of Ray 2.60 has them.

`test_served_metrics.py` compares them with one.
"""

from __future__ import annotations

RAY_METRICS: frozenset[str] = frozenset(
    {
        "ray_node_disk_free",
        "ray_node_disk_usage",
        "ray_node_mem_used",
        "ray_serve_autoscaling_target_replicas",
        "ray_serve_deployment_replica_healthy",
        "ray_serve_deployment_replica_starts_total",
        "ray_serve_health_check_failures_total",
        "ray_serve_num_http_requests_total",
        "ray_serve_replica_startup_latency_ms_bucket",
    }
)
