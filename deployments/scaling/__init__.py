"""How many replicas a stage gets."""
