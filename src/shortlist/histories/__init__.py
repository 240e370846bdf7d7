"""Stores of events and item changes that live longer than bundles."""
