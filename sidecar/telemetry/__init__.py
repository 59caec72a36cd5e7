"""What the sidecar tells of itself. It watches and never decides: nothing here may hold up a request or fail one."""
