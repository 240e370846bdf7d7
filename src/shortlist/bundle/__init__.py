"""The artifact a trained retriever is kept and shipped in."""
