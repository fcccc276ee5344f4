"""Hydra's door to Experiment Manager. Hydra executes these modules while it looks for plugins, some of them twice, in
every Hydra program on the machine: so they hold thin classes and nothing else, and import the body inside methods."""
