"""Webhooks: messages, signed and repeated, that a job is over. Knows no HTTP framework."""
