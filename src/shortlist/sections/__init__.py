"""The sections of a recipe that rooms below `config` read, and what all sections are made of."""
