"""The routes of jobs, and what they answer."""
