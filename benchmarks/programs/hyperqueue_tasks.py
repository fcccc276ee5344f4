"""Tasks of a command in HyperQueue, with one worker here: the seconds from their submission until the last has left its
result; its client looks only now and then whether all have ended.

Nothing is kept that it can be asked to leave out: no output of the tasks, and no journal of the server.

python hyperqueue_tasks.py N_TASKS N_AT_ONCE COMMAND
"""

import os
import sys
import time
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig

n_tasks, n_at_once, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with LocalCluster(worker_config=WorkerConfig(cores=n_at_once)) as cluster:
    client = cluster.client()
    job = Job(os.getcwd(), default_env={"RESULTS": os.environ["RESULTS"]})
    for _ in range(n_tasks):
        job.program([command], stdout=None, stderr=None)
    started = time.time()
    client.wait_for_jobs([client.submit(job)])  # raises unless all have ended well
    print("seconds", max(path.stat().st_mtime for path in Path(os.environ["RESULTS"]).iterdir()) - started)
