"""What a replica does with the jobs that it holds: claims, draws, writes down, gives back."""
