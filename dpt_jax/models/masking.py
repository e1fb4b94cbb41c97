"""What is added to the score of a key that a query must not see."""

# Finite, so that a query whose keys are all masked gives a uniform softmax instead of NaN. T5X uses
# the same value, and such queries then agree too.
MASKED_SCORE = -1e10
