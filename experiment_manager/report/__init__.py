"""The report: an experiment as one HTML file that can be read years later, without us and without a network."""
