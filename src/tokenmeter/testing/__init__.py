"""Parts for testing metered programs: no key, no network, no waiting.

A provider that answers from a script, on loopback, over real HTTP, so that the real SDKs talk to it::

    from openai import OpenAI
    from tokenmeter.testing import Reply, ScriptedProvider

    with ScriptedProvider(reply=Reply("Paris.", input_tokens=12, output_tokens=2)) as provider:
        client = OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0)
        client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "Capital?"}])
        assert provider.requests[0].json["model"] == "gpt-5-mini"
        assert provider.billed.output_tokens == 2

``reply`` is a text, a `Reply`, a list of them (used in order, then the last one repeatedly), or a function
that takes a `Request` and returns a text or a `Reply`. `Reply` also scripts failures: error statuses,
streams that are cut, truncated or stalled, answers without usage, broken bodies. With ``provider.hold()``
requests wait inside the server until ``provider.release()``, so fifty of them can be made to overlap without
a sleep. ``provider.billed`` is the truth that a meter is compared with.

A clock that the test moves, and a list of the calls that were metered::

    clock, calls = FakeClock(), CapturedCalls()
    ...                         # pass them to the meter
    clock.advance(3600)         # an hour later
    assert calls.where(agent="triage")[0].model == "gpt-5-mini"

As pytest fixtures, in a ``conftest.py`` of your own::

    @pytest.fixture
    def provider() -> Iterator[ScriptedProvider]:
        with ScriptedProvider() as provider:
            yield provider

    @pytest.fixture
    def client(provider: ScriptedProvider) -> OpenAI:
        return OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0)

Other processes can reach a provider by its ``url``; ``python -m tokenmeter.testing`` runs one on its own.
"""

from __future__ import annotations

from tokenmeter.testing.calls import CapturedCalls
from tokenmeter.testing.clock import FakeClock
from tokenmeter.testing.provider import Billed, ScriptedProvider
from tokenmeter.testing.script import Reply, Request, Script

__all__ = ["Billed", "CapturedCalls", "FakeClock", "Reply", "Request", "Script", "ScriptedProvider"]
