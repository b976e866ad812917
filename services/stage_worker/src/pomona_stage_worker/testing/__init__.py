"""Test doubles and baselines. A running cluster never uses them."""
