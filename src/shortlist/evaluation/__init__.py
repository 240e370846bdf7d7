"""Evaluation on the full catalogue, by the code that also serves requests."""
