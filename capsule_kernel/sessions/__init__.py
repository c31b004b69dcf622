"""Workers as the front sees them: a session is one worker, the pool keeps one in use and warm ones beside it."""
