"""WHAT IS A POSITIVE: the log, its features, its split, and batches of it."""
