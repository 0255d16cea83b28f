"""onnxruntime-genai's own loop on a package, run by the Python of the second environment.

    genai_loop.py FOLDER JOBS     JOBS and what is printed are JSON

A job: `turns`, each a list of prompts that run together; `adapter`, its name, or null; `route`,
what is fed at the start; `begin`, ids before a prompt that is alone; `tokens`, most of an answer.
Its result: each turn's answers, as ids.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def run(model: Any, adapters: Any, job: dict[str, Any]) -> list[list[list[int]]]:
    tokenizer, params = og.Tokenizer(model), og.GeneratorParams(model)
    first = job["turns"][0]
    params.set_search_options(max_length=128, do_sample=False, batch_size=len(first))
    generator = og.Generator(model, params)
    if job.get("adapter"):
        generator.set_active_adapter(adapters, job["adapter"])
    if "route" in job:
        generator.set_model_input("memory.route", np.array(job["route"], np.int64))
    turns = []
    for prompts in job["turns"]:
        several = len(prompts) > 1
        if several:
            generator.append_tokens(tokenizer.encode_batch(prompts))
        else:
            generator.append_tokens([*job.get("begin", []), *tokenizer.encode(prompts[0])])
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in range(job["tokens"]):
            generator.generate_next_token()
            for answer, token in zip(answers, generator.get_next_tokens(), strict=True):
                answer.append(int(token))
            if generator.is_done():
                break
        turns.append(answers)
    return turns


def main(folder: str, jobs: str) -> None:
    model = og.Model(folder)
    adapters = og.Adapters(model)
    for file in sorted(Path(folder).glob("*.onnx_adapter")):
        adapters.load(str(file), file.stem)
    print(json.dumps([run(model, adapters, job) for job in json.loads(jobs)]))


main(*sys.argv[1:])
