"""The demo story: six versions of a small language model, each with a fate of its own, played over the REST API."""
