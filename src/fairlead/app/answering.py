"""`fairlead answer`: asks in the terminal the questions of a run whose judge is a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fairlead.app import running
from fairlead.app.console import print_json, say
from fairlead.app.options import AsJson, Folder
from fairlead.app.words import command, shown
from fairlead.core.errors import FairleadError
from fairlead.core.people import Pending, Question
from fairlead.run.question_store import QuestionStore, StoredQuestion
from fairlead.run.records import RunStatus
from fairlead.run.store import Store


def answer(
    run: Folder,
    give: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ANSWER", help="Answer this question and ask nothing; repeat for several."),
    ] = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish",
            help="Ask no more questions: steering continues without answers, remaining pictures get no vote.",
        ),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only list the questions.")] = False,
    as_json: AsJson = False,
) -> int:
    """Answer the questions of a run, then continue it. An empty line stops; the answers so far are kept."""
    store = Store.open(run)
    finished = store.status == RunStatus.FINISHED
    store.close()
    questions = QuestionStore(run)
    for word in give or ():
        name, equals, typed = word.partition("=")
        if not equals:
            raise FairleadError(f"--give {word!r} is not NAME=ANSWER. Write for example 3f2a=1,3.")
        questions.answer(name.strip(), typed)
    if listed or give:
        return _list(run, questions, as_json)
    if finished:
        say(f"No question is open: {shown(run)} is finished.")
        return 0
    from fairlead.run import engine

    engine.resume(run, person=_no_preference if finish else terminal(run)).close()
    return running.finish(run, as_json)


def _no_preference(question: Question) -> str:
    """The answer that prefers nothing and ends the questions about one sample."""
    return {"steer": "finish", "pair": "tie"}.get(question.kind, "none")


HOW = {
    "pick": "numbers like 1,3, or none",
    "pair": "1, 2 or tie",
    "steer": "numbers you like, with a minus what you dislike (1,3,-4), none, or finish",
}


def terminal(run: Path) -> Callable[[Question], str]:
    """Asks on stderr and reads stdin until a line is a valid answer; `Pending` on an empty line or at the end."""

    def ask(question: Question) -> str:
        say(f"\n{question.text}")
        for line in _pictures(run, question):
            say(line)
        while True:
            print(f"{HOW[question.kind]} (empty: later) > ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline().strip()
            if not line:
                raise Pending(question)
            try:
                question.read(line)
            except ValueError as error:
                say(f"{error}.")
                continue
            return line

    return ask


def _pictures(run: Path, question: Question) -> list[str]:
    """The files to look at: one numbered sheet where there is one, else every picture."""
    if (sheet := QuestionStore(run).sheet(question)) is not None:
        return [f"  1 to {len(question.pictures)}  {shown(sheet)}"]
    return [f"  {i}  {shown(run / 'images' / f'{name}.png')}" for i, name in enumerate(question.pictures, 1)]


def _as_object(run: Path, questions: QuestionStore, stored: StoredQuestion) -> dict[str, Any]:
    question = stored.question
    sheet = questions.sheet(question)
    return {
        "name": question.name,
        "kind": question.kind,
        "text": question.text,
        "answer": stored.answer,
        "sheet": None if sheet is None else shown(sheet),
        "pictures": [shown(run / "images" / f"{name}.png") for name in question.pictures],
    }


def _list(run: Path, questions: QuestionStore, as_json: bool) -> int:
    every = questions.questions()
    waiting = [p for p in every if p.answer is None]
    if as_json:
        print_json({"run": shown(run), "questions": [_as_object(run, questions, p) for p in every]})
        return 0
    for p in waiting:
        print(f"{p.question.name}  {p.question.text}")
        for line in _pictures(run, p.question):
            print(line)
    if waiting:
        say(f"{len(waiting)} of {len(every)} questions are open. Answer them with: {command('answer', shown(run))}")
    else:
        say(f"All {len(every)} questions are answered. Continue with: {command('resume', shown(run))}")
    return 0
