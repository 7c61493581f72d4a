"""One generation, whoever asks for it: admission, sharing, caching, its log and metrics."""
