"""Known data sources, found by a part of the name that a manifest gives its input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A source's terms and makers, as its publisher states them.

    Attributes:
        licence: the Hub's identifier, or None where the manifest has to say it. Only strict ones need to be here: a
            wrong guess must err towards refusing.
        annotations_creators: in the Hub's words (expert-generated, machine-generated, found, ...).
        citation: BibTeX.
    """

    licence: str | None
    annotations_creators: tuple[str, ...]
    citation: str


SOURCES = {
    # https://huggingface.co/datasets/derek-thomas/ScienceQA and https://scienceqa.github.io
    "scienceqa": Source(
        "cc-by-nc-sa-4.0",
        ("expert-generated", "found"),
        """@inproceedings{lu2022learn,
  title     = {Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question Answering},
  author    = {Lu, Pan and Mishra, Swaroop and Xia, Tony and Qiu, Liang and Chang, Kai-Wei and Zhu, Song-Chun and
               Tafjord, Oyvind and Clark, Peter and Kalyan, Ashwin},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
    ),
    # The questions are made by processing/digitsqa.py over scans from https://archive.ics.uci.edu/dataset/80
    "digitsqa": Source(
        None,
        ("machine-generated", "found"),
        """@misc{alpaydin1998digits,
  title  = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  year   = {1998},
  doi    = {10.24432/C50P49},
  note   = {UCI Machine Learning Repository}
}""",
    ),
}


def known_source(*names: object) -> Source | None:
    """The source that one of the names speaks of, whatever else the name holds ("derek-thomas/ScienceQA")."""
    text = " ".join(str(name) for name in names if name).lower()
    return next((source for part, source in SOURCES.items() if part in text), None)
