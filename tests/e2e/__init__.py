"""The whole thing on real sockets: the sidecar as a process, raw clients before it, raw upstreams behind it."""
