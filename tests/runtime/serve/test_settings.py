"""What a server is told when it starts."""

import math

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve.settings import Settings

ADMIN, API = "the-admin-key", "the-api-key-of-all"


@pytest.mark.parametrize(
    "wrong",
    [{"admin_key": "short"}, {"api_key": "ä" * 9}, {"admin_key": API, "api_key": API},
     {"deadline": 0}, {"max_body": -1}, {"drain": math.inf}, {"drain": math.nan},
     {"max_prompt_tokens": 0}, {"max_prompt_tokens": -1}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(InputError):
        Settings(**wrong)
    assert ADMIN not in repr(Settings(admin_key=ADMIN))


def test_a_server_may_have_no_deadline_and_no_limit_of_prompts():
    settings = Settings(deadline=math.inf)
    assert (settings.deadline, settings.max_prompt_tokens) == (math.inf, None)
