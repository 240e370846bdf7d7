"""Channels that count or solve a closed form, without training by gradients."""
