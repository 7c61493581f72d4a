"""What an engine says of itself: counters, profiles, records of ticks."""
