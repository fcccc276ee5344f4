"""Hydra's entry points to Experiment Manager. Hydra executes these modules while it looks for plugins, some of them
twice, in every Hydra program on the machine: so they hold thin classes alone, and import the body inside methods."""
