"""More examples than fit: summed in tiles, in one kernel, over devices, over processes."""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
