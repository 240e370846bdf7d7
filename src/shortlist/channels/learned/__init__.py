"""Channels with towers that are trained by gradients."""
