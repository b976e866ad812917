"""The commands that say who belongs to the cluster."""
