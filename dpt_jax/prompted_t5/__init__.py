"""`PromptedT5`: a frozen T5, its tokenizer and a prompt as one object, for notebooks and scripts.

It is made of the parts that `dpt train` and `dpt predict` are made of, and imports neither SeqIO,
TensorFlow nor gin.
"""

from dpt_jax.prompted_t5.model import PromptedT5

__all__ = ["PromptedT5"]
