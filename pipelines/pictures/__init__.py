"""Pictures that come with a request: read within bounds, fitted, masked, pasted back."""
