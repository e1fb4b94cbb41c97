"""Whether a run will fit TPUs that are not there, and how fast it will be."""
