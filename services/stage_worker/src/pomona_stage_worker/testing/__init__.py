"""Test doubles and yardsticks: never a default, never part of a running cluster."""
