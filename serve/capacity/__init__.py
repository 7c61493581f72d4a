"""What a configuration takes, and whether machines hold it."""
