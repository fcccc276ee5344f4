"""Every file of an experiment and nothing else: where it lies, how it is read and written."""
