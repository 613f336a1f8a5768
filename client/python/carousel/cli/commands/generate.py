"""`carousel generate`: text from a language model, as it comes."""

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

if TYPE_CHECKING:
    import carousel


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "generate")
    def generate(
        options: Options,
        model: Annotated[str, typer.Argument(help="Name of a generative model.")],
        prompt: Annotated[str, typer.Argument(help="Text to go on from, or - for stdin.")],
        max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 200,
        temperature: Annotated[
            float, typer.Option(min=0, help="0 takes the likeliest token.")
        ] = 0.8,
        top_k: Annotated[int, typer.Option(min=0, help="Draw from so many only; 0 from all.")] = 0,
        top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw from this mass only.")] = 1.0,
        repetition_penalty: Annotated[float, typer.Option(help="1 changes nothing.")] = 1.0,
        seed: Annotated[
            int | None, typer.Option(min=0, help="The same seed repeats a text.")
        ] = None,
        stop: Annotated[
            list[str] | None, typer.Option(help="End before this text; repeatable.")
        ] = None,
        session: Annotated[str | None, typer.Option(help="Go on in this open session.")] = None,
        no_prompt: Annotated[
            bool, typer.Option("--no-prompt", help="Do not print the prompt.")
        ] = False,
    ) -> None:
        """Go on from a prompt and print the text as it comes.

        With -o json, one object with text, finish reason and counts at the end.
        """
        text = prompt_of(prompt)
        if not text and session is None:
            raise usage_error("the prompt is empty", "give some text to go on from")
        sampling: carousel.GenerateOptions = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop": stop or (),
        }
        live = options.output is not Output.JSON
        shown = "" if no_prompt else text
        with connected(options) as client:
            generation = begin(client, model, text, sampling, session)
            written: list[str] = []
            for token in generation:
                if live:  # the prompt comes with the first token: a refusal has a line of its own
                    emit(token.text if written else shown + token.text)
                written.append(token.text)
        finish(live, "".join(written), generation)


def prompt_of(argument: str) -> str:
    """The prompt, or all of stdin for "-"."""
    try:
        text = sys.stdin.read() if argument == "-" else argument
        text.encode()  # refuses what the shell could not decode
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
    """Starts the generation: in a session of its own, or in an open one."""
    if session is None:
        return client.generate(model, text, **sampling)
    return client.attach(session).generate(text or None, **sampling)


def finish(live: bool, text: str, generation: carousel.Generation) -> None:
    """The end of the text, or the whole of it as one object."""
    usage = generation.usage
    if live:
        emit("\n")
        return
    counts = {} if usage is None else asdict(usage)
    print_json({"text": text, "finish_reason": str(generation.finish_reason), **counts})


def emit(text: str) -> None:
    """Writes a piece of text now; a terminal obeys nothing of it but lines and tabs."""
    sys.stdout.write(printable(text, kept="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()
