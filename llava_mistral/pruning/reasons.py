"""Why a sample was not kept by its principles: each reason is true of the sample, and a test checks it on the data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from llava_mistral.data.scienceqa import Problem
from llava_mistral.pruning.coverage import skill_of
from llava_mistral.pruning.principles import NO_IMAGE, TOO_WEAK, UNDECIDED, Scores
from llava_mistral.pruning.words import answer_of, plain, wording_of

ALIKE = "its words and answer are those of kept samples: a seeded hash chose among them"
HARDER = "its words and answer are those of kept samples, which are harder"
SHARE = "its {} has its share: samples with other words or another answer were kept"
SHARE_OF_ANSWER = "its answer has its share: samples with other words were kept"
NO_ROOM = "the size leaves its {} no sample"
FULL = "its {} has its share"


def reasons_of(
    problems: Sequence[Problem], scores: Sequence[Scores], picks: Sequence[int], fitting: Sequence[int]
) -> dict[int, str]:
    """Return {sample: why it was dropped} for all that are not among `picks`.

    Args:
        fitting: the samples whose image is needed.
    """
    kept, fits = set(picks), set(fitting)
    labelled = any(skill_of(problems[i]) for i in fitting)
    kind = "skill" if labelled else "answer"
    group = skill_of if labelled else (lambda problem: plain(answer_of(problem)))
    in_group: Mapping[str, list[int]] = defaultdict(list)
    in_wording: Mapping[tuple, list[int]] = defaultdict(list)
    for i in picks:
        in_group[group(problems[i])].append(i)
        in_wording[group(problems[i]), wording_of(problems[i])].append(i)

    def why(i: int) -> str:
        if not problems[i].has_image:
            return NO_IMAGE
        if i not in fits:
            return scores[i].against if scores[i].necessity < UNDECIDED else TOO_WEAK
        name, wording = group(problems[i]), wording_of(problems[i])
        if not in_group[name]:
            return NO_ROOM.format(kind)
        twins = in_wording[name, wording]
        if any(scores[k].difficulty == scores[i].difficulty for k in twins):
            return ALIKE
        if twins and all(scores[k].difficulty > scores[i].difficulty for k in twins):
            return HARDER
        if len(twins) == len(in_group[name]):
            return FULL.format(kind)
        return SHARE.format(kind) if labelled else SHARE_OF_ANSWER

    return {i: why(i) for i in range(len(problems)) if i not in kept}
