"""The README of an export directory."""

import re


def test_its_readme_says_what_it_is_and_how_to_run_it(made) -> None:
    text = (made.out / "README.md").read_text(encoding="utf-8")
    assert f"# {made.exported.sidecar.model_id}, with ports" in text
    assert f"`{made.exported.sidecar.site}` (D = {made.exported.sidecar.D}" in text
    for called in ("RegisterCustomOpsLibrary", "RegisterCustomOpLibrary", "op_library_filename"):
        assert called in text
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "README.md", "exec")
