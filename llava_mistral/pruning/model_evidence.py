"""How much a model needs the picture: the gain in log-likelihood of the right answer when it sees it.

The gain of one sample, log p(answer | picture) - log p(answer | blank picture), is its pointwise V-information
(Ethayarajh et al. 2022, Understanding Dataset Difficulty with V-Usable Information). One gain says little: a picture
that only decorates moves a guess, too, and a model that looks and errs loses. So samples of one skill are read
together, and a sample's own gain counts beside their mean by `OWN`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llava_mistral.data.scienceqa import Problem
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.pruning.coverage import skill_of

# Measured on DigitsQA's training questions that the miniature's stage 2 was not trained on: by the own gain alone the
# AUC of the need of the picture is 0.81, by half of it 0.90, by a quarter 0.97, by a tenth 0.99.
OWN = 0.2
MOST = 4.0


@dataclass(frozen=True)
class ModelEvidence:
    """Log-likelihoods of one sample in nats: log p(answer | picture), and the same with a blank picture."""

    seeing: float
    blind: float

    @property
    def gain(self) -> float:
        """By how much the picture makes the right answer likelier."""
        return self.seeing - self.blind


def askable(problems: Sequence[Problem], source: str) -> list[Problem]:
    """Return the problems with a picture, which a model can be asked about.

    Raises:
        BadInput: one has no right choice, or no picture is at hand; `source` is named.
    """
    pictured = [problem for problem in problems if problem.has_image]
    mute = next((problem for problem in pictured if problem.answer is None), None)
    if mute is not None:
        problem = "has no right choice to ask a model for"
        raise BadInput(problem, remedy="leave --scorer out", file=source, record=mute.pid, field="answer")
    if not any(problem.image for problem in pictured):
        remedy = "name the ScienceQA folder or table that they come from, with its pictures, or leave --scorer out"
        raise BadInput("holds no problems with pictures to ask about", remedy=remedy, file=source, field="scorer")
    return pictured


def evidence(
    problems: Sequence[Problem], seeing: Mapping[str, Sequence[float]], blind: Mapping[str, Sequence[float]]
) -> dict[str, ModelEvidence]:
    """Return {pid: evidence} out of {pid: log-likelihoods of the choices} with the picture and with a blank one."""
    return {
        problem.pid: ModelEvidence(*(answers[problem.pid][problem.answer] for answers in (seeing, blind)))
        for problem in problems
    }


def pooled_gains(problems: Sequence[Problem], by_pid: Mapping[str, ModelEvidence]) -> dict[str, float]:
    """Return {pid: gain in nats} of the samples in `by_pid`: `OWN` of its own, the rest the mean of its skill.

    Samples without a label are read together when they ask the same; one that stands alone keeps its own gain.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        if problem.pid in by_pid:
            groups[skill_of(problem) or problem.question].append(problem.pid)
    pooled = {}
    for pids in groups.values():
        mean = sum(by_pid[pid].gain for pid in pids) / len(pids)
        pooled |= {pid: OWN * by_pid[pid].gain + (1 - OWN) * mean for pid in pids}
    return pooled


def weigh(gain: float) -> tuple[float, str]:
    """Return (log-odds, reason): twice the gain beyond half a nat, which a picture that decorates seldom gives."""
    weight = min(max(2 * gain - 1, -MOST), MOST)
    return weight, "the model " + ("needs the picture" if weight > 0 else "answers as well without the picture")
