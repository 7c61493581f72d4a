"""What the whole application has to do at this moment, for operators."""
