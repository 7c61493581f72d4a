"""What is told of a request while it is drawn, and to whom."""
