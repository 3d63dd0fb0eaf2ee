"""Long runs of real processes that are broken again and again: see `python -m tests.campaigns.faults --help`."""
