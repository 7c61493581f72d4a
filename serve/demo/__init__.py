"""`make demo`: a server, a first picture and its page."""
