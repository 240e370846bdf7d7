"""How good is it, on the full catalogue, with the code that serves."""
