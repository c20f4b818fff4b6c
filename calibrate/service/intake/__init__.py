"""Intake of clips: uploads, paths and URLs, checked before anything decodes them."""
