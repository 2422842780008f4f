"""A supervisor that has imported what its workers need: they are forks of it, and there at once.

Run by the workers' own Python, by file path: `zygote.py ORDERS PLANE APART HOME PROGRAM`. The
first three are those of supervise.py. It finds `runpod_flash` in HOME, imports as boot.py and its
program would, then what the plane tells it to, and answers in a line of JSON which names it so took
ahead of the user's folders. Then it supervises; a worker's program goes on in the fork where others
are started by exec. It starts no thread and opens nothing that a worker would share.
"""

import sys
from importlib import import_module

if __name__ == "__main__":
    own_path = list(sys.path)
    orders, plane, apart, home, program = sys.argv[1:]
    sys.path[0] = home
    import_module(program)
    sys.path.pop(0)
    sys.path.append(home)
    before = set(sys.modules)
    from runpod_flash.engines.local.processes import birth

    order = birth.supervise(int(orders), int(plane), apart == "1", program, before)
    if order is not None:
        birth.run_script(order["argv"], own_path)
