"""The edge of a stage's process, and how its replica leaves."""
