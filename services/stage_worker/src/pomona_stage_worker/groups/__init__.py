"""A stage held by the ranks of a tensor group, each a child process that can be thrown away."""
