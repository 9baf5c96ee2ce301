"""A small but real language model with a server that behaves as an inference engine does."""
