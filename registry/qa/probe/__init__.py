"""The load probe: a process of its own presses the server (`press`), the caller reads the figures (`run`)."""
