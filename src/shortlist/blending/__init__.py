"""Blends: the lists of several channels merged into one, with slots per channel."""
