"""Start of a worker process: `python boot.py LINK_FD WORKER_ID TOKEN`.

It runs by path in the endpoint's environment, where no runpod_flash is installed (and if one is, it
is another program). So it imports this very tree, then leaves its folder at the end of the path,
where packages of the environment go first.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Not resolved: the folder that holds runpod_flash may hold links to it and to cloudpickle.
    home = str(Path(__file__).absolute().parents[2])
    sys.path[0] = home
    import runpod_flash.worker.main

    sys.path.pop(0)
    sys.path.append(home)
    runpod_flash.worker.main.main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
