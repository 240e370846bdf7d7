"""How towers learn: the objective, the loop, and the modes as presets."""
