"""All that knows Hydra: planning a sweep, composing its jobs, and what its plugins and callback do."""
