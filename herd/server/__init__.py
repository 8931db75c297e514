"""Herd over HTTP: routes to rooms, who may call, pages, metrics, runs. No torch: the engine is a child process."""
