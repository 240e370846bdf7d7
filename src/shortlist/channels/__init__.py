"""WHO ANSWERS: channels that turn a user or a history into candidates."""
