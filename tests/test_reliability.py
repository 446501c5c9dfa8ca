"""The promise under abuse is whole: every case of the catalogue has its tests, and the page is what the run wrote."""

from collections import Counter

from tests.reliability import CATALOGUE, groups


def test_the_catalogue_has_the_cases_it_promises():
    assert sum(len(group["cases"]) for group in CATALOGUE["malformed"].values()) == 118
    assert len(CATALOGUE["security"]["S"]["cases"]) == 24
    names = Counter(case for group in groups().values() for case in group["cases"])
    assert max(names.values()) == 1
