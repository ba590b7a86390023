"""The parts of `jaxbackprop.check_gradient`.

In the order to read them: leaves, program, points, differences, diagnosis, report, reference, comparison.
"""
