"""Measures of how good an explanation is."""
