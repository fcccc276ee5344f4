"""What is true of every scheduler: arrays, scripts, submission, questions, and what became of jobs."""
