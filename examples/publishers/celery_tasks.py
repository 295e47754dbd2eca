"""A Celery task that sends to a resource while it works.

BROKER=redis://localhost:6379/1 TARGET=production.ini celery -A celery_tasks worker
"""

import os

from celery import Celery
from celery.signals import worker_process_shutdown

import stargate

app = Celery("celery_tasks", broker=os.environ["BROKER"])

# Made once. Nothing is connected yet: each process of the worker, forked or not, connects when it
# first sends.
publisher = stargate.connect(os.environ["TARGET"], os.environ.get("NAMESPACE"))


@app.task(bind=True, autoretry_for=(stargate.BackplaneError,), retry_backoff=True, max_retries=5)
def build(task, path):
    """Do the work; whoever listens to the resource at ``path`` sees how far it is."""
    for step in ("compiling", "testing", "done"):
        # A task that is tried again within a minute does not say again what it has said.
        publisher.send_json(path, {"step": step}, key=f"{task.request.id}-{step}")


@worker_process_shutdown.connect
def close(**_arguments):
    publisher.close()
