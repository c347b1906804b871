"""The worker process: scheduler, block manager, batch, core loop."""
