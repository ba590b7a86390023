"""A gradient check for anyone's gradient: `jaxbackprop.check_gradient`, `assert_gradient`, `check_vjp`.

In the order to read them. What is looked at: leaves, arguments, closures, decisions, rounding, points, reference (the right
gradient), tested (the one under test). Who is right: comparison, differences, disputes, verdict, report. What went wrong:
diagnosis (read off one parameter), causes, mistakes (made on purpose), layers, lines, steps (which there are to make). Then
check, where all begins. Of the rest of the package they import `programs` and what refuses a wrong argument.
"""
