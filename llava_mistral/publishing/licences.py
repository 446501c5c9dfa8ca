"""Licences of what is published: stated by the user, carried on from the source, or refused."""

from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.publishing.known_sources import known_source

# The identifiers the Hub accepts (https://huggingface.co/docs/hub/repositories-licenses).
IDENTIFIERS = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "creativeml-openrail-m", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma",
    "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "llama4", "mit", "mpl-2.0", "ms-pl", "odbl", "odc-by", "ofl-1.1", "openrail",
    "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "unknown", "wtfpl", "zlib", "other",
}  # fmt: skip


def check_identifier(licence: str) -> str:
    """Return the licence in the Hub's spelling, or refuse one it does not know."""
    name = licence.strip().lower().replace(" ", "-")
    if name not in IDENTIFIERS:
        raise BadInput(
            f"{licence!r} is not a licence the Hub knows",
            remedy="use an identifier such as apache-2.0, cc-by-4.0 or cc-by-nc-sa-4.0, or `other`",
            field="license",
        )
    return name


def dataset_licence(manifest: dict, stated: str | None, folder: Path) -> str:
    """The licence a dataset is published under: the source's, carried on, or the one the user states.

    Raises:
        BadInput: no licence is known, or the stated one drops conditions of the source's.
    """
    source = _known_source(manifest) or manifest.get(
        "license"
    )  # what the manifest was told cannot loosen the source's
    if (stated or source or "unknown").strip().lower() == "unknown":
        raise BadInput(
            "nothing says under which licence these rows may be passed on",
            remedy="state it with --license, e.g. --license cc-by-4.0",
            file=folder / "manifest.json",
            field="license",
        )
    source = check_identifier(source) if source else None
    stated = check_identifier(stated) if stated else source
    if source and (reason := incompatible(source, stated)):
        raise BadInput(
            f"the rows come under {source}, which {reason}; {stated} does not",
            remedy=f"publish under {source}",
            file=folder / "manifest.json",
            field="license",
        )
    return stated


def incompatible(source: str, stated: str) -> str | None:
    """Return the condition of the source's licence that the stated one drops, or None. Not legal advice."""
    if source in (stated, "unknown", "other"):
        return None
    conditions = set(source.split("-"))
    if "nd" in conditions:
        return "allows no derivatives"
    if conditions & {"sa", "odbl", "gpl", "agpl"}:
        return "must be passed on under the same terms"
    if "nc" in conditions and "nc" not in stated.split("-"):
        return "forbids commercial use"
    if "by" in conditions and stated in ("cc0-1.0", "pddl", "unlicense", "wtfpl"):
        return "asks for attribution"
    return None


def _known_source(manifest: dict) -> str | None:
    given = manifest.get("input")
    source = known_source(manifest.get("source"), given.get("name") if isinstance(given, dict) else given)
    return source.licence if source else None
