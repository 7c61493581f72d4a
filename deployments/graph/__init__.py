"""One job through the stages: fan-out, retries, cancellation, forecasts; runs in the ingress."""
