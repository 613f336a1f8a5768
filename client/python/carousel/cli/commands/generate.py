"""`carousel generate`: prints text or tokens of a generative model while they are generated."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
        prompt: Annotated[
            str | None, typer.Argument(help="Text to continue, or - for stdin.", show_default=False)
        ] = None,
        tokens: Annotated[
            str | None, typer.Option(help="Token ids instead of a text, such as 12,7,3.")
        ] = None,
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

        With --tokens, a model without a tokenizer prints the labels or the numbers of its tokens.
        With -o json, print one object with text, tokens, finish reason and counts at the end.
        """
        check_new(initial, session)
        given = ids_of(tokens, prompt) if tokens is not None else prompt_of(prompt)
        if not given and session is None:
            raise usage_error("the prompt is empty", "give a text to continue, or --tokens")
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
        shown = given if isinstance(given, str) and not no_prompt else ""
        with connected(options) as client:
            text_of = text_of_token if tokens is None else names_of(client.model(model))
            generation = begin(client, model, given, sampling, session)
            text, ids = collected(generation, text_of, shown if live else None)
        finish(live, text, ids, generation)


def collected(
    generation: carousel.Generation,
    text_of: Callable[[carousel.Token, bool], str],
    shown: str | None,
) -> tuple[str, list[int]]:
    """Text and ids of all tokens, printed as they come after a prompt, unless that is None."""
    written: list[str] = []
    ids: list[int] = []
    for token in generation:
        text = text_of(token, bool(ids))
        # The prompt is printed with the first token, so that a refusal has its own line.
        if shown is not None:
            emit(text if ids else shown + text)
        written.append(text)
        ids.append(token.id)
    return "".join(written), ids


def text_of_token(token: carousel.Token, _later: bool) -> str:
    """What the tokenizer makes of it."""
    return token.text


def names_of(model: carousel.ModelInfo) -> Callable[[carousel.Token, bool], str]:
    """Gives a token's text: of the tokenizer, or its label or number with a space before a later one."""
    if model.tokenizer:
        return text_of_token
    return lambda token, later: " " * later + model.label_names([token.id])[0]


def ids_of(tokens: str, prompt: str | None) -> list[int]:
    """The token ids of an option, separated by commas or spaces.

    Raises:
        CliError: they are no numbers, or there is a text too.
    """
    if prompt is not None:
        raise usage_error("there are a text and --tokens", "give one of them")
    try:
        return [int(token) for token in tokens.replace(",", " ").split()]
    except ValueError:
        raise usage_error(f"--tokens is {tokens!r}", "give numbers, such as 12,7,3") from None


def prompt_of(argument: str | None) -> str:
    """The prompt, or all of stdin for "-"."""
    if argument is None:
        raise usage_error("there is no prompt", "give a text to continue, or --tokens")
    try:
        text = sys.stdin.read() if argument == "-" else argument
        text.encode()  # refuses bytes that are not UTF-8
    except UnicodeError as error:
        raise not_text(argument if argument == "-" else "the prompt") from error
    return text


def begin(
    client: carousel.Client,
    model: str,
    prompt: str | list[int],
    sampling: carousel.GenerateOptions,
    session: str | None,
) -> carousel.Generation:
    """Starts the generation in a new or in an open session."""
    if session is None:
        return client.generate(model, prompt, **sampling)
    return client.attach(session).generate(prompt or None, **sampling)


def finish(live: bool, text: str, ids: list[int], generation: carousel.Generation) -> None:
    """Prints the end of the text, or one object with all of it."""
    usage = generation.usage
    if live:
        emit("\n")
        return
    counts = {} if usage is None else asdict(usage)
    print_json(
        {"text": text, "tokens": ids, "finish_reason": str(generation.finish_reason), **counts}
    )


def emit(text: str) -> None:
    """Writes and flushes a piece of text. Control characters other than lines and tabs are escaped."""
    sys.stdout.write(printable(text, kept="\n\t") if sys.stdout.isatty() else text)
    sys.stdout.flush()
