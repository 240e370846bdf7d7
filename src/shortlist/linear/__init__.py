"""HOW ITEMS GO TOGETHER, WITHOUT TOWERS: weights between items, computed from the log."""
