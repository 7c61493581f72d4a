"""All metrics, declared once, and how their values reach Ray."""
