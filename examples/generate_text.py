"""Text from the character model, token by token, sampled on the server.

python examples/generate_text.py [host:port]
"""

from __future__ import annotations

import sys

import carousel


def main(target: str) -> None:
    with carousel.Client(target) as client:
        prompt = "def "
        print(prompt, end="")
        generation = client.generate(
            "pychar-lstm", prompt, max_tokens=200, temperature=0.8, seed=7, logprobs=0
        )
        logprob = 0.0
        for token in generation:
            print(token.text, end="", flush=True)
            logprob += token.logprob or 0.0
        usage = generation.usage
        assert usage is not None
        print(f"\n\n{usage.generated_tokens} tokens, ended by {generation.finish_reason}")
        print(f"mean log-probability {logprob / usage.generated_tokens:.2f}")

        # In a session of your own, a second call continues where the first stopped.
        with client.session("pychar-lstm", seed=7) as session:
            first = session.generate("class ", max_tokens=20).text()
            second = session.generate(max_tokens=20).text()
            print(f"{first!r} and then {second!r}")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["localhost:50051"]))
