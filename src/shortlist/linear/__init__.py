"""HOW ITEMS GO TOGETHER, WITHOUT TOWERS: counts of the log made into weights between items."""
