"""Tasks and examples as arrays: SeqIO tasks, reading, buckets, batches, vocabularies."""
