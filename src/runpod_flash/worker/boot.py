"""Start of a worker process: `python boot.py LINK WORKER_ID TOKEN`.

LINK is the number of a descriptor, or the path of a UNIX socket to connect to. It runs by path in
the endpoint's environment, where no runpod_flash is installed (and if one is, it is another
program). So it imports this very tree, then leaves its folder at the end of the path, where
packages of the environment go first.
"""

import socket
import sys
from os.path import abspath, dirname


def _link(where: str) -> int:
    if where.isdigit():
        return int(where)
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(where)
    return connected.detach()


if __name__ == "__main__":
    if sys.hexversion < 0x030A0000:  # (an image may bring any)
        found = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"workers run Python 3.10 to 3.13, and this is {found}")
    # Not resolved: the folder that holds runpod_flash may hold links to it and to cloudpickle.
    home = dirname(dirname(dirname(abspath(__file__))))  # noqa: PTH100, PTH120
    sys.path[0] = home
    import runpod_flash.worker.main

    sys.path.pop(0)
    sys.path.append(home)
    runpod_flash.worker.main.main(_link(sys.argv[1]), sys.argv[2], sys.argv[3])
