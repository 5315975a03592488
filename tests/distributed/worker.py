"""python -m distributed.worker MODULE FOLDER: runs SCENARIOS of MODULE on two gloo ranks, each in a group of its own.

Its PYTHONPATH has the folder of the tests.
"""

import datetime
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

torch.set_num_threads(1)
PATIENCE = datetime.timedelta(seconds=300)


def on_rank(rank, scenarios, folder):
    errors = {}
    for name, scenario in scenarios.items():
        rendezvous = f"file://{folder / name}"
        try:
            dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2, timeout=PATIENCE)
            scenario(rank, folder)
            errors[name] = None
        except BaseException:
            errors[name] = f"rank {rank}: {traceback.format_exc()}"
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        file = folder / f"rank-{rank}.json"
        file.write_text(json.dumps(dict.fromkeys(scenarios, f"rank {rank} did not come to it") | errors))


def main(module, folder):
    scenarios = {scenario.__name__: scenario for scenario in importlib.import_module(module).SCENARIOS}
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            on_rank(rank, scenarios, folder)
            os._exit(0)
        children.append(child)
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGKILL) for child in children])
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
