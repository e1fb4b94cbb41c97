"""What the trainer can be given to train: `text` is a frozen T5 with a SeqIO task."""
