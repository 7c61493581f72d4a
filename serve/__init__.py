"""The product: settings, the HTTP ingress, the command line and the demo."""
