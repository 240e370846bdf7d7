"""A RECIPE CARRIED OUT: read, split, train, measure; and many such runs compared."""
