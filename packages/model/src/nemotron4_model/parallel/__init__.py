"""How a model is spread over devices, applied from outside: the model itself knows nothing of it."""

from nemotron4_model.parallel.clip import global_grad_norm_and_clip, grad_norms
from nemotron4_model.parallel.recipe import begin_micro_batch, parallelise

__all__ = ["begin_micro_batch", "global_grad_norm_and_clip", "grad_norms", "parallelise"]
