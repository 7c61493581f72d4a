"""How the carried model learns to edit, and to draw cleanly: data, training and scores."""
