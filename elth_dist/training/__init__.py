"""One training loop for every job, its masked optimizer, schedules and evaluation."""
