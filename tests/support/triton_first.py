"""Loads Triton, where PyTorch for GPUs has brought it: to be imported before TensorFlow.

TensorFlow loads its LLVM for all libraries to see, and a Triton that comes after it ends the
process by a segmentation fault (tensorflow/tensorflow issue 124205).
"""

import importlib.util

if importlib.util.find_spec("triton") is not None:
    importlib.import_module("triton")
