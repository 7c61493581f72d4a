"""How the carried model was made: its world, its training, its evaluation."""
