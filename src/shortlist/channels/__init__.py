"""WHO ANSWERS: channels, the retrievers that return candidates for a user or a history."""
