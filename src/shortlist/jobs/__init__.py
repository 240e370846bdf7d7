"""Batch jobs: steps are pure functions of table parts, and engines run them on grouped rows."""
