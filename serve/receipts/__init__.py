"""Receipts: what a file says of how it was drawn, against what runs here."""
