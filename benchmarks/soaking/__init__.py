"""The parts of `benchmarks.soak`: what is sent, what is killed, and the book that is kept of it."""
