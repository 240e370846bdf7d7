"""WHAT A RECIPE COULD SAY: named models to start from, and guesses from the heads of files."""
