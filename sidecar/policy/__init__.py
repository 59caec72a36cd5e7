"""The policies: pure and deterministic. No I/O, no asyncio, no clock: `now` is an argument, randomness is injected."""
