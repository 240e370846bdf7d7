"""HOW ONE ASKS: questions, the one door that answers them, and what a channel can do."""
