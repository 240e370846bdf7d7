"""RUNS: train a recipe from its files to a bundle; repeat, tune, refresh and track trainings."""
