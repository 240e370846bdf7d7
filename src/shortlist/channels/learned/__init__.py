"""Channels whose vectors come from trained towers."""
