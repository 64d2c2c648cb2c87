"""The jobs of a comparison: each trains and evaluates one model with one seed, by default in a process of its own.

A job is described in JSON and safetensors, never by pickle, and answers in JSON. A process that dies is a job that failed, and a job that
was stopped goes on from the last checkpoint of its run.

=================  ==================================================================================
plan.py            what is to be done: models, data, budget, seeds; written down before the first job
work.py            one job: train (or go on), evaluate, leave pictures
processes.py       many jobs at once, in processes of this machine
cluster.py         many jobs at once, as tasks of a Ray cluster
handover.py        the records and feature spaces, as all jobs see them
=================  ==================================================================================
"""

from .handover import hand_over, take_over
from .plan import Job, Plan, Row
from .processes import at_most, at_once
from .work import in_turn, main, run_job

__all__ = ["Job", "Plan", "Row", "at_most", "at_once", "hand_over", "in_turn", "main", "run_job", "take_over"]
