"""The supervisor of a plane's workers, as a program. It is run by file path.

`supervise.py ORDERS PLANE APART`: two descriptors, a stream socket to the plane and a pidfd of the
plane's process (-1 where the system has none); and 1 where each worker is to be in namespaces of
its own, alone with its minder. See supervisor.py.
"""

# ruff: noqa: PTH100 (pathlib would take longer than all the rest)
import os.path
import sys

if __name__ == "__main__":
    # Last, and only for now: what is beside the package is not for this program.
    sys.path.append(os.path.abspath(__file__ + "/../../../../.."))
    from runpod_flash.engines.local.processes import beginning, namespaces, supervisor

    sys.path.pop()
    orders, plane, apart = map(int, sys.argv[1:])
    if apart:
        namespaces.enter_user_namespace()
    supervisor.serve(orders, plane, beginning.begin_program, bool(apart))
