"""HTTP/1.1 conformance: a corpus of raw octets, a strict upstream that records them, and a judge."""
