"""Options of a test run: `--deep` for the heavy suites, and how hypothesis looks for counter-examples."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

SLOW = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
]  # generated nets are big data

settings.register_profile(
    "ci", max_examples=40, derandomize=True, deadline=None, print_blob=True, suppress_health_check=SLOW
)
settings.register_profile("deep", settings.get_profile("ci"), max_examples=400)
settings.register_profile("thousands", settings.get_profile("deep"), max_examples=3000, derandomize=False)
settings.register_profile("explore", settings.get_profile("deep"), derandomize=False)
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="run the tests marked deep as well")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--deep") and not config.getoption("--hypothesis-profile", None):
        settings.load_profile("deep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--deep"):
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    items[:] = [item for item in items if not item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    if config.getoption("--deep"):
        return "deep tests are selected too (--deep)"
    return "deep tests are left out, being too heavy for every run; select them with --deep"
