"""A bundle as an online service: `run.serve` starts it; `service` answers, `app` speaks HTTP."""
