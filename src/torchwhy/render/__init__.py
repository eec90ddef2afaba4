"""Explanations to look at: pictures, figures, notebook cards and self-contained pages. Imports core only."""
