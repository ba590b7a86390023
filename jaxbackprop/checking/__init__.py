"""A gradient check for anyone's gradient: `jaxbackprop.check_gradient`, `assert_gradient`, `check_vjp`.

In the order to read them: leaves, arguments, decisions, points, differences, diagnosis, terms, report, reference, comparison,
check. Each imports only those before it, and of the rest of the package `programs` and what refuses a wrong argument.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
