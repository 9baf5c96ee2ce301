"""Looks at components that can be imported, in a process of its own: an import may hang, print or crash."""
