"""SEVERAL CHANNELS AS ONE: their lists merged, and how much each of them may give."""
