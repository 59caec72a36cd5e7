"""Side-by-side measurements of the sidecar against other proxies, and what its imports cost."""
