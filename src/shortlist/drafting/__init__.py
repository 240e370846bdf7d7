"""WHAT A RECIPE COULD SAY: named models to start from, and guesses at the head of files."""
