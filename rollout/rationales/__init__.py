"""Rationales: parsing and filtering of what a policy writes to explain a label."""
