"""The operations of the model that have more than one implementation, and the only code that chooses between them.

One module per operation: `attention`, `linear`, `rotation`, `softmax_gradient`, `squared_relu`. Its public function has
the semantics that the paper gives it, whatever runs underneath; its docstring lists the paths and when each is taken.
`transformer.py` and `loss.py` call the public functions; `transformer.py` knows nothing of devices, dtypes, sizes or
compilers.

Invariant: every path of an operation gives the same result up to rounding, gradients included. tests/model/kernels
compares each path with one implementation written from the definition.

A new path (a GPU kernel, a quantised product) is a private function in its operation's module, a line in that module's
list of paths, a condition in the public function, and a case in its test.
"""
