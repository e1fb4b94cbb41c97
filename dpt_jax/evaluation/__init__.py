"""What a model answers: generation, rank classification, metrics."""
