"""Training: a step, epochs of steps, and `fit`; what lies on the disk meanwhile; what a private run spends.

In the order to read them: steps, methods, epochs, evaluate, inputs, then fit and many; disk, checkpoints, npz_store,
orbax_store, identity, keeper, runs; secret, accounting, privacy.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
