"""An online service for bundles: `run.serve` starts it, `service` answers, `app` handles HTTP."""
