"""Batch steps as pure functions of whole groups, and the engines that bring groups together."""
