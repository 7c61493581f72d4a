"""Whose requests are: tenants, and how they are told apart."""
