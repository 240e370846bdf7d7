"""Channels that count or solve, without training by gradients."""
