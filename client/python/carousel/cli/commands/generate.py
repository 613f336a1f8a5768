"""`carousel generate`: prints text of a language model while it is generated."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.connect import connected
from carousel.cli.exits import usage_error
from carousel.cli.options import Options, Output, command
from carousel.cli.printing import print_json, printable
from carousel.cli.rows import not_text
from carousel.cli.states import Initial, check_new

if TYPE_CHECKING:
    import carousel


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "generate")
    def generate(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a generative model.")],
        prompt: Annotated[str, typer.Argument(help="Text to continue, or - for stdin.")],
        max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 200,
        temperature: Annotated[
            float, typer.Option(min=0, help="0 always chooses the most likely token.")
        ] = 0.8,
        top_k: Annotated[
            int, typer.Option(min=0, help="Sample from so many tokens. 0 is all.")
        ] = 0,
        top_p: Annotated[
            float,
            typer.Option(
                min=0, max=1, help="Sample from the most likely tokens with this total probability."
            ),
        ] = 1.0,
        repetition_penalty: Annotated[
            float, typer.Option(help="Penalty of tokens that occurred before. 1 is none.")
        ] = 1.0,
        seed: Annotated[
            int | None, typer.Option(min=0, help="The same seed gives the same text.")
        ] = None,
        stop: Annotated[
            list[str] | None, typer.Option(help="End before this text. May be repeated.")
        ] = None,
        session: Annotated[str | None, typer.Option(help="Continue in this open session.")] = None,
        initial: Initial = "",
        no_prompt: Annotated[
            bool, typer.Option("--no-prompt", help="Do not print the prompt.")
        ] = False,
    ) -> None:
        """Continue a prompt and print the text while it is generated.

        With -o json, print one object with text, finish reason and counts at the end.
        """
        check_new(initial, session)
        text = prompt_of(prompt)
        if not text and session is None:
            raise usage_error("the prompt is empty", "give a text to continue")
        sampling: carousel.GenerateOptions = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": stop or (),
            "initial": initial,
        }
        live = options.output is not Output.JSON
        shown = "" if no_prompt else text
        with connected(options) as client:
            generation = begin(client, model, text, sampling, session)
            written: list[str] = []
            for token in generation:
                if (
                    live
                ):  # the prompt is printed with the first token, so that a refusal has its own line
                    emit(token.text if written else shown + token.text)
                written.append(token.text)
        finish(live, "".join(written), generation)


def prompt_of(argument: str) -> str:
    """The prompt, or all of stdin for "-"."""
    try:
        text = sys.stdin.read() if argument == "-" else argument
        text.encode()  # refuses bytes that are not UTF-8
    except UnicodeError as error:
        raise not_text(argument if argument == "-" else "the prompt") from error
    return text


def begin(
    client: carousel.Client,
    model: str,
    text: str,
    sampling: carousel.GenerateOptions,
    session: str | None,
) -> carousel.Generation:
    """Starts the generation in a new or in an open session."""
    if session is None:
        return client.generate(model, text, **sampling)
    return client.attach(session).generate(text or None, **sampling)


def finish(live: bool, text: str, generation: carousel.Generation) -> None:
    """Prints the end of the text, or one object with all of it."""
    usage = generation.usage
    if live:
        emit("\n")
        return
    counts = {} if usage is None else asdict(usage)
    print_json({"text": text, "finish_reason": str(generation.finish_reason), **counts})


def emit(text: str) -> None:
    """Writes and flushes a piece of text. Control characters other than lines and tabs are escaped."""
    sys.stdout.write(printable(text, kept="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()
