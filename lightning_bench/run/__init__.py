"""Plan, worker process, Record: isolation, time limits, resume."""
