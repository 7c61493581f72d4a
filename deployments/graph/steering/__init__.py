"""What is asked of a request while it is drawn, and how the replicas hear of it."""
