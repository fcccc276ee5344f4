"""The folder of an experiment on disk: where everything lies, and how each file in it is read and written."""
