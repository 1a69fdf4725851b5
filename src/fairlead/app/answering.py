"""`fairlead answer`: the questions of a run whose judge is a person, asked in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fairlead.app import running
from fairlead.app.console import print_json, say
from fairlead.app.options import AsJson, Folder, Trust
from fairlead.app.words import command, shown
from fairlead.core.errors import FairleadError
from fairlead.core.people import Pending, Question
from fairlead.run.question_store import QuestionStore
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
            "--finish", help="Ask nothing more: what is steered goes on by itself, what is left gets no vote."
        ),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Only list the questions.")] = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> int:
    """Answer what a run asks, then let it go on; an empty line stops, and nothing that was answered is lost."""
    store = Store.open(run)
    finished = store.status == RunStatus.FINISHED
    store.close()
    desk = QuestionStore(run)
    for word in give or ():
        name, equals, said = word.partition("=")
        if not equals:
            raise FairleadError(f"--give {word!r} is not NAME=ANSWER: write for example 3f2a=1,3.")
        desk.answer(name.strip(), said)
    if listed or give:
        return _list(run, desk, as_json)
    if finished:
        say(f"Nothing waits: {shown(run)} is finished.")
        return 0
    from fairlead.run import engine

    engine.resume(run, person=_nobody if finish else terminal(run), trust=trust).close()
    return running.finish(run, as_json)


def _nobody(question: Question) -> str:
    """The answer of somebody who has seen enough."""
    return {"steer": "finish", "pair": "tie"}.get(question.kind, "none")


HOW = {
    "pick": "numbers like 1,3, or none",
    "pair": "1, 2 or tie",
    "steer": "numbers you like, with a minus what you dislike (1,3,-4), none, or finish",
}


def terminal(run: Path) -> Callable[[Question], str]:
    """Asks on stderr, reads a line from stdin, until it is an answer; `Pending` on an empty line or the end."""

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
    """What to look at: one numbered sheet where there is one."""
    if (sheet := QuestionStore(run).sheet(question)) is not None:
        return [f"  1 to {len(question.pictures)}  {shown(sheet)}"]
    return [f"  {i}  {shown(run / 'images' / f'{name}.png')}" for i, name in enumerate(question.pictures, 1)]


def _list(run: Path, desk: QuestionStore, as_json: bool) -> int:
    every = desk.questions()
    waiting = [p for p in every if p.answer is None]
    if as_json:
        rows = [
            {
                "name": p.question.name,
                "kind": p.question.kind,
                "text": p.question.text,
                "answer": p.answer,
                "sheet": None if (sheet := desk.sheet(p.question)) is None else shown(sheet),
                "pictures": [shown(run / "images" / f"{n}.png") for n in p.question.pictures],
            }
            for p in every
        ]
        print_json({"run": shown(run), "questions": rows})
        return 0
    for p in waiting:
        print(f"{p.question.name}  {p.question.text}")
        for line in _pictures(run, p.question):
            print(line)
    if waiting:
        say(f"{len(waiting)} of {len(every)} questions wait. Answer them with: {command('answer', shown(run))}")
    else:
        say(f"All {len(every)} questions are answered. Continue with: {command('resume', shown(run))}")
    return 0
