"""Pictures as SVG markup: pure functions from plain data, no script and no inline style.

Colours come from classes (static/css/pages.css), so that the same markup serves
the light and the dark theme under a strict content security policy.
"""
