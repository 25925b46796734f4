"""The tests' settings, but on the PostgreSQL that POSTGRES_OF_TESTS names."""

import os

import environ

from vdadmin.settings import *  # noqa: F403 - settings are a flat list

DATABASES = {"default": environ.Env.db_url_config(os.environ["POSTGRES_OF_TESTS"])}
