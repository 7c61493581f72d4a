"""What a tick costs: the fitted surface, its measurement, its cache."""
