"""Generate a checkpoint's answers to questions in batches, resuming where an earlier run stopped.

Two scorings come of one pass. `generated`: the text that greedy generation writes, read by `scoring.read_answer`.
`likelihood`: the choice whose letter is the likeliest next token; it needs no reading, and never says nothing.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llava_mistral.data.scienceqa import Problem
from llava_mistral.evaluation.asking import Checkpoint, check_pictures, weights_fingerprint
from llava_mistral.evaluation.journal import Answer, AnswerSettings, Journal
from llava_mistral.evaluation.matching import match_of
from llava_mistral.evaluation.questions import Question, words_hash
from llava_mistral.evaluation.scoring import question_hash
from llava_mistral.ground.checkpoint_headers import computing_type


def answer_problems(
    name: str,
    problems: Sequence[Problem] | Sequence[Question],
    settings: AnswerSettings,
    *,
    images: Sequence[str] = ("real",),
    folder: Path | None = None,
    device: str | None = None,
    revision: str | None = None,
) -> dict[str, dict[str, Answer]]:
    """Return {"real" or "blank": {pid: answer}} of the checkpoint `name`, which is loaded once, if at all.

    Args:
        images: with which pictures to ask: "real" ones, "blank" (mid-grey of the same size), or both.
        folder: where `predictions.jsonl` and `blank/predictions.jsonl` are kept; a second run asks what they lack.

    Raises:
        BadInput: a picture is not at hand, or the folder holds the answers of another run.
    """
    check_pictures(problems)
    header = {
        **settings.header(),
        "questions": questions_hash(problems),
        "weights": weights_fingerprint(name, revision),
    }
    header["dtype"] = computing_type(name, revision)
    checkpoint, answers = None, {}
    for kind in images:
        path = run_folder(folder, kind) / "predictions.jsonl" if folder else None
        journal, mine = Journal(path, {**header, "images": kind}), problems
        if kind == "blank" and "real" in answers:
            # A question without a picture is the same question twice.
            same = [p.pid for p in problems if not p.has_image and p.pid not in journal.answers]
            journal.append(answers["real"][pid] for pid in same)
            mine = [problem for problem in problems if problem.has_image]
        if any(problem.pid not in journal.answers for problem in mine):
            checkpoint = checkpoint or Checkpoint(
                name, device=device, revision=revision, chat_template=settings.chat_template
            )
            _ask(checkpoint, mine, settings, kind, journal)
        answers[kind] = journal.answers
    return answers


def questions_hash(problems: Sequence[Problem] | Sequence[Question]) -> str:
    """Return the SHA-256 of the questions, lettered or free-form."""
    return words_hash(problems) if isinstance(problems[0], Question) else question_hash(problems)


def run_folder(folder: Path, images: str) -> Path:
    """Return where the answers with real or blank pictures are kept."""
    return folder / "blank" if images == "blank" else folder


def _ask(
    checkpoint: Checkpoint,
    problems: Sequence[Problem] | Sequence[Question],
    settings: AnswerSettings,
    images: str,
    journal: Journal,
) -> None:
    """Ask the batches that `journal` does not hold whole yet; shows progress with the accuracy so far.

    A batch that was cut off is asked whole: among other questions, padded to another length, the last bits of its
    likelihoods would be others.
    """
    from tqdm import tqdm

    batches = _batches(checkpoint, problems, settings.batch_size)
    left = [batch for batch in batches if any(problem.pid not in journal.answers for problem in batch)]
    known = {problem.pid: problem for problem in problems}
    right = sum(_is_right(problem, journal, settings) for problem in problems if problem.pid in journal.answers)
    name = "asking" + (" with blank pictures" if images == "blank" else "")
    done = sum(pid in journal.answers for pid in known)
    with tqdm(total=len(problems), initial=done, desc=name, unit=" questions") as bar:
        for batch, inputs in _prepared(checkpoint, left, images):
            new = [
                answer for answer in checkpoint.answer(batch, inputs, settings) if answer.pid not in journal.answers
            ]
            journal.append(new)
            right += sum(_is_right(known[answer.pid], journal, settings) for answer in new)
            bar.update(len(new))
            bar.set_postfix_str(f"accuracy {100 * right / bar.n:.1f} %")


def batch_answers(
    checkpoint: Checkpoint,
    problems: Sequence[Problem] | Sequence[Question],
    settings: AnswerSettings,
    images: str = "real",
) -> Iterator[list[Answer]]:
    """Yield the answers batch by batch, questions of like length together."""
    for batch, inputs in _prepared(checkpoint, _batches(checkpoint, problems, settings.batch_size), images):
        yield checkpoint.answer(batch, inputs, settings)


def _is_right(problem: Problem | Question, journal: Journal, settings: AnswerSettings) -> bool:
    if isinstance(problem, Question):
        return (match_of(settings.match).score(journal.answers[problem.pid].output or "", problem.answer) or 0) == 1
    return journal.answers[problem.pid].choice(problem, settings.scoring) == problem.answer


def _batches(
    checkpoint: Checkpoint, problems: Sequence[Problem] | Sequence[Question], size: int
) -> list[list[Problem]]:
    """Return batches of prompts of like length, longest first: little padding, and a lack of memory shows at once."""
    if not problems:
        return []
    prompts = [checkpoint.prompt(problem) for problem in problems]
    ids = checkpoint.processor.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    # A picture is as many tokens in every prompt, so that questions with and without one part into batches.
    order = sorted(range(len(problems)), key=lambda i: (not problems[i].has_image, -len(ids[i])))
    return [[problems[i] for i in order[start : start + size]] for start in range(0, len(order), size)]


def _prepared(
    checkpoint: Checkpoint, batches: Sequence[list[Problem]], images: str
) -> Iterator[tuple[list[Problem], Any]]:
    """Yield each batch with its tensors; pictures of the next batch are decoded while the model works on this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = [pool.submit(checkpoint.inputs, batch, images) for batch in batches[:1]]
        for index, batch in enumerate(batches):
            inputs = coming.pop().result()
            coming += [pool.submit(checkpoint.inputs, after, images) for after in batches[index + 1 : index + 2]]
            yield batch, inputs
