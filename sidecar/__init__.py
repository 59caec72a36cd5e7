"""A resilience sidecar: a reverse proxy that stands between an application and each dependency it calls."""

__version__ = "0.1.0"
