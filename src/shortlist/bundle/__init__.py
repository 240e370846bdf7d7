"""The bundle: the directory in which a fitted retriever is saved and shipped."""
