"""Which version is better: experiments on real traffic, on their own or as a gate of a rollout's step."""
