"""The base of all sections of a recipe, and the sections that packages below `config` need."""
