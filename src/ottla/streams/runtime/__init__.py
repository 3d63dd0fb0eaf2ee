"""What runs a topology: which record is next, when to commit, how to restore, who has which task."""
