"""Fixtures of the service tests."""

from disks.tests.services.catalog import either_format

__all__ = ["either_format"]
