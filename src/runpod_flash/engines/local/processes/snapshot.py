"""A zygote that has loaded an endpoint's code as well: its forks go on from there.

Run in a fork of the environment's zygote: `snapshot.py ORDERS PROGRAM`. Whoever holds the other end
of ORDERS tells what to load; the answer is a line of JSON. Then it supervises, as zygote.py does.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    orders, program = sys.argv[1:]
    # As boot.py leaves it; not resolved, as there.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).absolute().parents[4])]
    path = ["", *sys.path[:-1]]
    from runpod_flash.engines.local.processes import birth

    birth.supervise_snapshot(int(orders), program, path)
