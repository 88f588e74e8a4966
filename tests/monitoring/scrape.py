"""What a program tells a scraper, read as Prometheus reads it."""

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def scraped(url: str, token: str) -> str:
    """`/metrics`, as text."""
    answer = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.text


def families(text: str) -> dict[str, Metric]:
    """By name; a counter's is without `_total`."""
    return {each.name: each for each in text_string_to_metric_families(text)}


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by the values of their labels in the order of the labels' names."""
    samples = [sample for family in families(text).values() for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


def labels(text: str) -> dict[str, set[str]]:
    """Names of samples, each with those of the labels that it was seen with."""
    found: dict[str, set[str]] = {}
    for family in families(text).values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
