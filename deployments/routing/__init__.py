"""Which replica gets a call, and what a caller knows of replicas."""
