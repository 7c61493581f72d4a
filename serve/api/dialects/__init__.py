"""What other servers' clients send, and what it means here."""
